"""Which documents are the same text, or nearly: exact groups by hash, then clusters by MinHash and banding.

Banding (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, §3.4): a signature is cut into bands of r bytes; two
documents that agree in a whole band are candidates, found by sorting one band at a time. A candidate pair whose
estimated similarity reaches the threshold is joined (union–find); the best document of a cluster stays: the one with
the most characters, ties by the hash of text and source. Nothing depends on the order of files or on the workers.

r is the largest at which bands find a pair at the threshold with probability ≥ 0.99; what decides near the threshold
is the estimate, with its standard error (see minhash). A cluster is joined by chains: a member may be less alike to
the one that stays than to the one that joined it. Not followed: comparing the texts themselves.

In memory: about 190 bytes a document (0.2 GB for a million), of which 128 are the signature.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.clean.minhash import PERMUTATIONS, Fingerprints
from congling.reporter import Reporter

_RECALL = 0.99
_WINDOW = 32  # in a bucket, a document is compared with this many of the best ones: buckets of boilerplate stay linear


@dataclass(frozen=True)
class Duplicates:
    """Of N documents: which one each stands for."""

    kept: NDArray[np.int64]  # [N], the document that stays in its place; itself where it stays
    exact: NDArray[np.bool_]  # [N], dropped because its letters are those of another
    similarity: NDArray[np.float64]  # [N], estimated Jaccard similarity to the one kept


def find_duplicates(prints: Fingerprints, jaccard: float, reporter: Reporter) -> Duplicates:
    """Groups the documents; see the module."""
    count = len(prints.characters)
    # Rank: the best document has the smallest. The position decides only between equal text of equal source.
    order = np.lexsort((np.arange(count), prints.hashes[:, 2], -prints.characters))
    kept = _exact_groups(prints.hashes, order)
    exact = kept != np.arange(count)
    candidates = order[~exact[order] & prints.signed[order]]
    parent = _clusters(prints.signatures, candidates, jaccard, reporter)
    kept[candidates] = candidates[parent]
    kept = kept[kept]  # an exact duplicate stands for the one that stays of its twin's cluster
    similarity = np.ones(count)
    for i in np.flatnonzero((kept != np.arange(count)) & ~exact):
        equal = (prints.signatures[i] == prints.signatures[kept[i]]).mean()
        similarity[i] = max(0.0, (equal - 1 / 256) / (1 - 1 / 256))
    return Duplicates(kept, exact, similarity)


def rows_per_band(jaccard: float) -> int:
    """The largest r ≤ 8 (a band is a 64-bit key) with 1 − (1 − jaccard^r)^(128 // r) ≥ 0.99."""
    for rows in range(8, 1, -1):
        if 1 - (1 - jaccard**rows) ** (PERMUTATIONS // rows) >= _RECALL:
            return rows
    return 1


def _exact_groups(hashes: NDArray[np.uint64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each document the best one with the same 128 bits."""
    first, second = hashes[order, 0], hashes[order, 1]
    by_hash = np.lexsort((second, first))  # stable: the best document leads its group
    first, second = first[by_hash], second[by_hash]
    leads = np.ones(len(order), np.bool_)
    leads[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    leader = by_hash[leads][np.cumsum(leads) - 1] if len(order) else by_hash
    kept = np.empty(len(order), np.int64)
    kept[order[by_hash]] = order[leader]
    return kept


def _clusters(
    signatures: NDArray[np.uint8], candidates: NDArray[np.int64], jaccard: float, reporter: Reporter
) -> NDArray[np.int64]:
    """For each of M candidates (best first) the best of its cluster, as an index into them [M]."""
    rows = rows_per_band(jaccard)
    least = math.ceil(PERMUTATIONS * (jaccard * (1 - 1 / 256) + 1 / 256) - 1e-9)
    parent = np.arange(len(candidates))
    with reporter.progress("near-duplicates", PERMUTATIONS // rows, "bands") as bar:
        for band in range(PERMUTATIONS // rows):
            keys = np.zeros((len(candidates), 8), np.uint8)
            keys[:, :rows] = signatures[candidates, band * rows : (band + 1) * rows]
            key = keys.view(np.uint64)[:, 0]
            by_key = np.argsort(key, kind="stable")
            _join(key[by_key], by_key, candidates, signatures, least, parent)
            bar.advance(1)
    _flatten(parent)
    return parent


@njit(nogil=True, cache=True)
def _join(
    key: NDArray[np.uint64],
    by_key: NDArray[np.int64],
    candidates: NDArray[np.int64],
    signatures: NDArray[np.uint8],
    least: int,
    parent: NDArray[np.int64],
) -> None:
    """Joins the documents of each bucket (equal keys, best first) that agree in at least ``least`` bytes."""
    begin = 0
    for i in range(1, len(key)):
        if key[i] != key[begin]:
            begin = i
        for j in range(begin, min(i, begin + _WINDOW)):
            a, b = _root(parent, by_key[i]), _root(parent, by_key[j])
            if a == b:
                continue
            one, other = signatures[candidates[by_key[i]]], signatures[candidates[by_key[j]]]
            equal = 0
            for k in range(PERMUTATIONS):
                equal += one[k] == other[k]
            if equal >= least:
                parent[max(a, b)] = min(a, b)


@njit(nogil=True, cache=True)
def _root(parent: NDArray[np.int64], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def _flatten(parent: NDArray[np.int64]) -> None:
    for i in range(len(parent)):
        parent[i] = _root(parent, i)
