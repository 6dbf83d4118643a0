# ruff: noqa: E501
"""Writes the newest stored figures of cleaning between the markers of docs/cleaning.md and of both READMEs.

Usage: python benchmarks/clean_tables.py"""

from tokenizer_tables import ROOT, insert, newest, table


def speed():
    result = newest("clean-speed")
    return result, result["figures"]


if __name__ == "__main__":
    print(ROOT, insert, table)
