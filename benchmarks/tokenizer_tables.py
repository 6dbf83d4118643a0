# ruff: noqa: E501
"""Writes the newest stored figures of the tokenizer between the markers of docs/tokenizer.md and of both READMEs.

Usage: python benchmarks/tokenizer_tables.py"""

import json
from pathlib import Path

from common import RESULTS

ROOT = Path(__file__).parents[1]


def newest(name):
    return json.loads(max(RESULTS.glob(f"{name}-20*.json")).read_text())


def table(corner, rows):
    """Markdown of {row: {column: value}}."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    return "\n".join(
        [*lines, *(f"| {name} | {' | '.join(str(row.get(c, '')) for c in columns)} |" for name, row in rows.items())]
    )


def speed_rows(figures):
    names = {
        "arrow_seed": "seed's rule, Arrow",
        "arrow_own": "our rule, Arrow",
        "list_seed": "seed's rule, list of str",
        "list_own": "our rule, list of str",
        "sentencepiece": "SentencePiece",
        "times_sentencepiece": "times as fast",
        "decode_bytes": "decode to bytes",
        "decode_str": "decode to str",
    }
    return {d: {names[key]: value for key, value in row.items()} for d, row in figures["megabytes_a_second"].items()}


def document():
    names = ("tokenizer", "tokenizer-training", "tokenizer-compression", "tokenizer-bits", "fuzz-tokenizer")
    results = {name: newest(name) for name in names}
    f, made, compression, bits, fuzz = (results[name]["figures"] for name in names)
    hardware, date = results["tokenizer"]["hardware"], results["tokenizer"]["date"][:10]
    equal, lines = f["lines_equal"], f["lines_compared_with_the_seeds_rule"]
    first = {
        kind: {key.replace("_", " "): f"{value} s" for key, value in row.items()}
        for kind, row in f["first_use_seconds"].items()
    }
    once, many = made["seconds a GB, once and 2 GB"]
    large = fuzz["large"]
    parts = [
        f"{date}, {hardware['cpu']}, {hardware['cores']} cores; the peers in the same runs. MB of UTF-8 a second on one "
        "core, with the seed's 65,546 pieces:",
        table("text", speed_rows(f)),
        f"Two threads: {f['two_threads']} × one. Lines with the ids of the seed's rule: {equal:,} of {lines:,}. First use:",
        table("numba's cache", first),
        f"Training 65,536 ids on {made['bytes'] / 1e6:.0f} MB: {made['times as fast as SentencePiece']} times as fast as "
        f"SentencePiece unigram. Seconds a GB: {once} on it once, {many} on 2 GB made from it.",
        table("training", {name: row for name, row in made.items() if isinstance(row, dict)}),
        f"Bytes a token on held-out text, 65,536 ids from {compression['trained_on_bytes'] / 1e6:.0f} MB (seconds: of "
        "training on one thread):",
        table("vocabulary", compression["bytes_per_token"]),
        f"Bits per byte of the `demo` model on held-out text after {bits['trained_on_bytes'] / 1e6:.0f} MB of text, or as "
        "many tokens as named; 8,192 ids:",
        table("vocabulary", bits["rows"]),
        f"Fuzzing: {fuzz['strings']:,} strings, {fuzz['faults']} faults. A document of 1 GB: {large['seconds']} s, "
        f"{large['peak_gb_of_the_process']} GB.",
    ]
    parts += [f"*{name}: {remark}*" for name in names for remark in results[name].get("remarks", [])]
    return "\n\n".join(parts)


def sentence(chinese):
    speed, training = newest("tokenizer")["figures"], newest("tokenizer-training")["figures"]
    laws = speed["megabytes_a_second"]["laws"]
    mine = training["ours, 1 thread"]["seconds"]
    size, times = training["bytes"] / 1e6, training["times as fast as SentencePiece"]
    if chinese:
        return (
            f"切分（种子项目的 65,546 个词，单核）：{laws['arrow_seed']:.0f} MB/秒，SentencePiece 用同样的词 "
            f"{laws['sentencepiece']:.0f} MB/秒。从 {size:.0f} MB 文本学 65,536 的词表：单线程 {mine:.0f} 秒，"
            f"是 SentencePiece unigram 的 {times:.0f} 倍快。全部数字和测量时的干扰：[docs/tokenizer.md](docs/tokenizer.md)。"
        )
    return (
        f"Encoding with the seed's 65,546 pieces on one core: {laws['arrow_seed']:.0f} MB/s, SentencePiece with the same "
        f"pieces {laws['sentencepiece']:.0f}. A vocabulary of 65,536 ids from {size:.0f} MB: {mine:.0f} s on one thread, "
        f"{times:.0f} times as fast as SentencePiece unigram. All figures, and what disturbed them: [docs/tokenizer.md](docs/tokenizer.md)."
    )


def put(file, text, name="tokenizer"):
    whole = file.read_text(encoding="utf-8")
    before, found, rest = whole.partition(f"<!-- {name} -->\n")
    assert found, f"{file} has no marker"
    after = rest.partition(f"<!-- /{name} -->")[2]
    file.write_text(f"{before}<!-- {name} -->\n{text}\n<!-- /{name} -->{after}", encoding="utf-8")


if __name__ == "__main__":
    put(ROOT / "docs" / "tokenizer.md", document())
    put(ROOT / "README.md", sentence(False))
    put(ROOT / "README.zh-CN.md", sentence(True))
