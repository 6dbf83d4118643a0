"""Pass 4: some buckets of the shuffle become a shard, ``corpus-00000.parquet``, in the order of the keys.

Before it, documents that cutting has made equal are found: of each such group the longest stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from congling.clean.finish import ONE_FILE, PIECE, REJECTS, FinishJob
from congling.clean.tally import Tally
from congling.corpus.documents import SCHEMA
from congling.corpus.shards import ShardWriter

_ROWS = 4096  # documents put in order at a time


@dataclass(frozen=True)
class Twins:
    """Documents that cutting made equal to another: ids (sorted) and the ids of those that stand for them."""

    ids: NDArray[np.int64]
    kept: NDArray[np.int64]

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each id its place among the twins, -1 where it is none."""
        place = np.searchsorted(self.ids, ids)
        found = place < len(self.ids)
        found[found] = self.ids[place[found]] == ids[found]
        return np.where(found, place, -1)


def find_twins(pieces: Path, parts: int) -> Twins:
    """Reads ``.final.npy`` of all parts; in memory are only the documents whose hash is that of a changed one."""
    files = [np.load(pieces / f"{i:05d}.final.npy", mmap_mode="r") for i in range(parts)]
    changed = np.unique(np.concatenate([f["hashes"][f["changed"], 0] for f in files]))
    rows = np.concatenate([f[np.isin(f["hashes"][:, 0], changed)] if len(changed) else f[:0] for f in files])
    first, second, whole = rows["hashes"].T
    order = np.lexsort((rows["id"], whole, -rows["characters"], second, first))
    rows = rows[order]
    leads = np.ones(len(rows), np.bool_)
    leads[1:] = (rows["hashes"][1:, :2] != rows["hashes"][:-1, :2]).any(1)
    kept = rows["id"][leads][np.cumsum(leads) - 1] if len(rows) else rows["id"]
    ids, kept = rows["id"][~leads], kept[~leads]
    by_id = np.argsort(ids)
    return Twins(ids[by_id], kept[by_id])


def write_shard(job: FinishJob, twins: Twins, number: int) -> int:
    """Writes a shard unless it is there; returns 1. What it drops is taken off in its summary."""
    done = job.pieces / f"shard-{number:05d}.json"
    if not done.exists():
        tally, each = Tally(job.seed), job.buckets // job.shards
        with tally.clock("write"), ShardWriter(job.stage, "corpus", ONE_FILE, SCHEMA, number) as shard:
            for bucket in range(number * each, (number + 1) * each):
                _write(job, twins, bucket, shard, tally)
        tally.save(done)
    return 1


def _write(job: FinishJob, twins: Twins, bucket: int, shard: ShardWriter, tally: Tally) -> None:
    batches = []
    for number in range(len(job.parts.files)):
        with pa.memory_map(str(job.pieces / f"{number:05d}.arrow")) as file, pa.ipc.open_file(file) as piece:
            batches.append(piece.get_batch(bucket))
    table = pa.Table.from_batches(batches, PIECE)
    place = twins.find(table["id"].to_numpy())
    if (place >= 0).any():
        _drop(job, twins, bucket, table.filter(pa.array(place >= 0)), place[place >= 0], tally)
        table = table.filter(pa.array(place < 0))
    order = np.argsort(table["key"].to_numpy(), kind="stable")
    del batches
    table = table.select(SCHEMA.names).combine_chunks()
    for begin in range(0, len(order), _ROWS):  # not all at once: that would be a third copy of the text
        for batch in table.take(pa.array(order[begin : begin + _ROWS])).to_batches():
            shard.write(batch)


def _drop(job: FinishJob, twins: Twins, bucket: int, table: pa.Table, place: NDArray[np.int64], tally: Tally) -> None:
    details = [f"of document {id} after cutting" for id in twins.kept[place].tolist()]
    reasons = pa.repeat(pa.scalar("duplicate", pa.string()), len(table))
    columns: Sequence[Any] = [*(table[name].combine_chunks() for name in SCHEMA.names), reasons, pa.array(details)]
    dropped = pa.record_batch(columns, schema=REJECTS)
    with ShardWriter(job.stage, "rejects", ONE_FILE, REJECTS, len(job.parts.files) + bucket) as rejects:
        rejects.write(dropped)
    tally.dropped(dropped)
    tally.summary["documents"] -= len(dropped)
    tally.summary["bytes"] -= pc.sum(pc.binary_length(dropped["text"])).as_py() or 0
    tally.summary["characters"] -= pc.sum(pc.utf8_length(dropped["text"])).as_py() or 0
