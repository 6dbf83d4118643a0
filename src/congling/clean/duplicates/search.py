"""Which documents are the same text, or nearly, in five steps; each leaves files, and a killed search goes on.

1. ``groups``: exact groups by hash; the best of each is a candidate, and candidates are ranked from best to worst.
2. ``bands``: pairs of candidates that fall into one bucket and whose signatures are alike; a task a band.
3. ``clusters.deal_pairs``: the documents that pairs connect are dealt into buckets.
4. ``clusters.extract_texts``: their texts are copied, so that those of a bucket lie together; a task a part.
5. ``clusters.settle_bucket``: what stays, decided on the texts; a task a bucket.

Nothing depends on the order of files or on the workers. In memory are, besides ``memory`` a task, 8 to 16 bytes a
document; on disk 150 bytes a candidate, 8 a pair and band, and the texts of documents in pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.duplicates.bands import band_tasks, find_pairs
from congling.clean.duplicates.clusters import deal_pairs, extract_texts, settle_bucket
from congling.clean.duplicates.groups import Alive, exact_groups, select_candidates
from congling.clean.duplicates.job import Job, spans
from congling.corpus.executor import Pool
from congling.reporter import Reporter

_STEP = 1 << 22  # documents at a time


@dataclass(frozen=True)
class Duplicates:
    """Of N documents: which one each stands for. Memory-mapped."""

    kept: NDArray[np.int64]  # [N], the row of the document that stays in its place; its own where it stays
    exact: NDArray[np.bool_]  # [N], dropped because its letters are those of another
    similarity: NDArray[np.float32]  # [N], Jaccard similarity to the one kept


def find_duplicates(
    files: Sequence[Path],
    alive: Alive,
    jaccard: float,
    shingle: int,
    folder: Path,
    pool: Pool,
    reporter: Reporter,
    memory: int = 256 << 20,
) -> Duplicates:
    """Searches all documents that are ``alive`` of the parts ``files``, which have fingerprints beside them.

    files: Parquet with a column "text". alive: a mask of the rows of each. folder: for ``kept.npy``, ``exact.npy``,
    ``similarity.npy``, and what the search leaves on its way. memory: bytes a task.
    """
    job = Job(tuple(files), np.cumsum([0, *map(len, alive)]), folder, jaccard, shingle, memory)
    if not (folder / "kept.npy").exists():
        count = select_candidates(job, alive, exact_groups(job, alive))
        _save(job, _near(job, count, pool, reporter) if count else [])
    for file in folder.glob("work/*"):
        file.unlink()
    return Duplicates(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("kept", "exact", "similarity")))


def _near(job: Job, count: int, pool: Pool, reporter: Reporter) -> list[int]:
    """Steps 2 to 5; returns the buckets."""
    bands = band_tasks(job, count)
    with reporter.progress("near-duplicates", len(bands), "bands") as bar:
        for _ in pool.map(partial(find_pairs, job), bands):
            bar.advance(1)
    buckets = deal_pairs(job, [task.name for task in bands])
    if buckets:
        with reporter.progress("compare texts", len(job.files) + len(buckets), "files") as bar:
            for step, tasks in ((extract_texts, range(len(job.files))), (settle_bucket, buckets)):
                for _ in pool.map(partial(step, job), tasks):
                    bar.advance(1)
    return buckets


def _save(job: Job, buckets: list[int]) -> None:
    """Puts the verdicts of all buckets together; ``kept.npy`` is written last."""
    leader = job.load("leader")
    kept, similarity = np.array(leader), np.ones(len(leader), np.float32)
    rows, order = (job.load("rows"), job.load("order")) if buckets else (leader, leader)
    for number in buckets:
        dropped = job.load(f"dropped-{number:05d}")
        gone = rows[order[dropped["rank"]]]
        kept[gone] = rows[order[dropped["keeper"]]]
        similarity[gone] = dropped["similarity"]
    exact = np.empty(len(kept), np.bool_)
    for span in spans(len(kept), _STEP):  # an exact duplicate stands for the one that its twin stands for
        similarity[span] = similarity[leader[span]]
        kept[span] = kept[leader[span]]
        exact[span] = leader[span] != np.arange(span.start, span.stop)
    for name, values in (("similarity", similarity), ("exact", exact), ("kept", kept)):
        with atomic_open(job.folder / f"{name}.npy") as file:
            np.save(file, values)
