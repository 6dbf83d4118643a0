"""Pass 3: every document gets its final text or its reason; what stays is dealt into the buckets of the shuffle.

The shuffle orders all documents by a key made of the seed and the hash of their letters, which no two of them share: a
random permutation that depends on neither files nor workers. Keys are dealt by their top bits into buckets, a few a
shard. A part leaves ``pieces/00000.arrow`` (a record batch a bucket), ``.final.npy`` (a row a document that stays),
``rejects-00000.parquet`` in the stage's folder, and a summary, ``pieces/00000.json``, which is written last.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.compare import DUPLICATE, NEAR_DUPLICATE, Compared, Parts
from congling.clean.config import CleanConfig
from congling.clean.duplicates.fingerprint import fingerprint, load_hashes
from congling.clean.judges import Judges, Verdict
from congling.clean.parts import STAYS
from congling.clean.rules import FIRST_RULE, REASONS, RULES, detail, histogram
from congling.clean.tally import Tally
from congling.corpus.documents import SCHEMA
from congling.corpus.shards import ShardWriter, read_shard

REJECTS = pa.schema([*SCHEMA, ("reason", pa.string()), ("detail", pa.string())])
PIECE = pa.schema([*SCHEMA, ("key", pa.uint64())])
FINAL = np.dtype([("id", np.int64), ("hashes", np.uint64, (3,)), ("characters", np.int64), ("changed", np.bool_)])
ONE_FILE = 1 << 60  # bytes: what a ShardWriter writes stays together
_ODD, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True)
class FinishJob:
    """What all tasks of the pass share."""

    parts: Parts
    compared: Compared
    config: CleanConfig
    stage: Path  # its folder
    judges: Path  # folder of what Judges loads
    pieces: Path
    seed: int
    shards: int
    buckets: int  # a multiple of the shards


def finish_part(job: FinishJob, number: int) -> int:
    """Writes the pieces and rejects of a part unless they are there; returns its bytes of text."""
    done = job.pieces / f"{number:05d}.json"
    if not done.exists():
        tally = Tally(job.seed)
        kept, final = [PIECE.empty_table()], [np.empty(0, FINAL)]
        with ShardWriter(job.stage, "rejects", ONE_FILE, REJECTS, number) as rejects:
            for stays, rows in _divided(job, number, rejects, tally):
                kept.append(pa.Table.from_batches([stays]))
                final.append(rows)
        with tally.clock("deal"):
            _write_piece(job, number, pa.concat_tables(kept))
            with atomic_open(job.pieces / f"{number:05d}.final.npy") as file:
                np.save(file, np.concatenate(final))
        tally.save(done)
    return int(job.parts.counts[number]["bytes_normalised"])


def _divided(
    job: FinishJob, number: int, rejects: ShardWriter, tally: Tally
) -> Iterator[tuple[pa.RecordBatch, NDArray[Any]]]:
    """Batch by batch what stays, as PIECE and FINAL; the rest goes to ``rejects``."""
    written = (job.judges / "limits.npy").stat().st_mtime_ns  # the last of its files
    judges, known = _load_judges(job.judges, job.config, written), _Known.of_part(job, number)
    batches = read_shard(job.parts.files[number])
    begin = 0  # within the part
    while True:
        with tally.clock("read part"):
            batch = next(batches, None)
        if batch is None:
            return
        here = known.slice(begin, begin + len(batch))
        begin += len(batch)
        gone, there = np.flatnonzero(here.reason != STAYS), np.flatnonzero(here.reason == STAYS)
        with tally.clock("reject"):
            _reject(rejects, tally, batch, here.ids, gone, here.reason, here.details(batch, job.config, judges.limits))
        alive = batch.take(pa.array(there)) if len(gone) else batch
        with tally.clock("judge"):
            verdict = judges.judge(alive["text"])
        late = np.flatnonzero(verdict.reason != STAYS)
        _reject(rejects, tally, alive, here.ids[there], late, verdict.reason, verdict.detail)
        stays = np.flatnonzero(verdict.reason == STAYS)
        with tally.clock("keep"):
            tally.judged(verdict, judges, alive["text"])
            tally.histogram(histogram(here.measured[there[stays]]))
            kept = _keep(job, alive, here.ids[there], stays, verdict, here.hashes[there], tally)
        yield kept


@dataclass(frozen=True)
class _Known:
    """What passes 1 and 2 found out about N documents of a part."""

    ids: NDArray[np.int64]
    reason: NDArray[np.int16]
    kept: NDArray[np.int64]
    similarity: NDArray[np.float32]
    hashes: NDArray[np.uint64]  # [N, 3]
    measured: NDArray[np.float32]  # [N, R]

    @classmethod
    def of_part(cls, job: FinishJob, number: int) -> "_Known":
        where, compared = job.parts.slice(number), job.compared
        ids = np.arange(where.start, where.stop)
        reason, kept = np.array(compared.reason[where]), np.array(compared.kept[where])
        similarity = np.array(compared.similarity[where])
        hashes, measured = load_hashes(job.parts.files[number]), job.parts.load(number, "measures.npy")
        return cls(ids, reason, kept, similarity, np.array(hashes), np.array(measured))

    def slice(self, begin: int, end: int) -> "_Known":
        return _Known(*(getattr(self, field)[begin:end] for field in self.__dataclass_fields__))

    def details(self, batch: pa.RecordBatch, config: CleanConfig, limits: NDArray[np.float64]) -> dict[int, str]:
        """Why those of the documents that do not stay do not."""
        details = {}
        for i in np.flatnonzero(self.reason != STAYS).tolist():
            rule = int(self.reason[i]) - FIRST_RULE
            if 0 <= rule < len(RULES):
                details[i] = detail(rule, float(self.measured[i, rule]), limits[rule])
            elif self.reason[i] == DUPLICATE:
                details[i] = f"of document {self.kept[i]}"
            elif self.reason[i] == NEAR_DUPLICATE:
                measured = f"jaccard {self.similarity[i]:.2f} with document {self.kept[i]}"
                details[i] = f"{measured} >= {config.jaccard:g}"
            else:
                details[i] = batch["detail"][i].as_py()
        return details


def _reject(
    rejects: ShardWriter,
    tally: Tally,
    batch: pa.RecordBatch,
    ids: NDArray[np.int64],
    gone: NDArray[np.int64],
    reason: NDArray[np.int16],
    details: dict[int, str],
) -> None:
    if not len(gone):
        return
    where = pa.array(gone)
    columns = [pa.array(ids[gone]), batch["text"].take(where), batch["source"].take(where)]
    columns.append(pa.array([REASONS[r] for r in reason[gone]], pa.string()))
    columns.append(pa.array([details[i] for i in gone.tolist()], pa.string()))
    dropped = pa.record_batch(columns, schema=REJECTS)
    rejects.write(dropped)
    tally.dropped(dropped)


def _keep(
    job: FinishJob,
    batch: pa.RecordBatch,
    ids: NDArray[np.int64],
    stays: NDArray[np.int64],
    verdict: Verdict,
    hashes: NDArray[np.uint64],
    tally: Tally,
) -> tuple[pa.RecordBatch, NDArray[Any]]:
    where = pa.array(stays)
    text = verdict.text.take(where) if len(stays) < len(batch) else verdict.text
    final = np.empty(len(stays), FINAL)
    final["id"], final["hashes"], final["changed"] = ids[stays], hashes[stays], verdict.changed[stays]
    final["characters"] = pc.utf8_length(text).to_numpy()
    if final["changed"].any():
        prints = fingerprint(text.filter(pa.array(final["changed"])), job.config.shingle)
        final["hashes"][final["changed"]] = prints.hashes
    key = shuffle_key(final["hashes"], job.seed)
    kept = pa.record_batch([pa.array(ids[stays]), text, batch["source"].take(where), pa.array(key)], schema=PIECE)
    tally.kept(kept, int(final["characters"].sum()))
    return kept, final


def shuffle_key(hashes: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A random number a document [N]: the hash of its letters mixed with the seed (splitmix64)."""
    key = (hashes[:, 0] + np.uint64(seed) * _ODD) * _MIX
    key ^= (key >> np.uint64(29)) ^ hashes[:, 1]
    key *= _ODD
    return key ^ (key >> np.uint64(32))


def _write_piece(job: FinishJob, number: int, kept: pa.Table) -> None:
    """A record batch a bucket, in the order of the buckets."""
    bucket = bucket_of(kept["key"].to_numpy(), job.buckets)
    order = np.argsort(bucket, kind="stable")
    ends = np.searchsorted(bucket[order], np.arange(job.buckets + 1))
    kept = kept.combine_chunks()
    one_bucket = job.buckets == 1
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        atomic_open(job.pieces / f"{number:05d}.arrow") as file,
        pa.ipc.new_file(file, PIECE, options=options) as writer,
    ):
        for k in range(job.buckets):
            of_bucket = kept if one_bucket else kept.take(pa.array(order[ends[k] : ends[k + 1]])).combine_chunks()
            [batch] = of_bucket.to_batches() or [pa.RecordBatch.from_pylist([], PIECE)]
            writer.write_batch(batch)


def bucket_of(key: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    """The bucket of each key [N]: equal stretches of the range of keys."""
    return ((key >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)).astype(np.int64)


@lru_cache(1)
def _load_judges(folder: Path, config: CleanConfig, written: int) -> Judges:
    """``written``: when, so that a process never takes those of an earlier run in the same folder."""
    return Judges.load(folder, config)
