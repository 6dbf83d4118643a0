"""Stage ``tokenize``: corpus and vocabulary → token shards, a held-out part beside the rest."""

import shutil
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from congling import artifact
from congling.artifact import Stage
from congling.corpus.documents import text_buffers
from congling.corpus.shards import read_shards
from congling.corpus.tokens import TokenWriter
from congling.reporter import Reporter
from congling.tokenizer.config import TokenizeConfig
from congling.tokenizer.kernels import Bytes, Longs
from congling.tokenizer.tokenizer import FILE, Tokenizer


def run(stage: Stage, reporter: Reporter, config: TokenizeConfig) -> dict[str, Any]:
    """Writes ``train-*`` and ``valid-*`` shards; each document ends with ``<|endoftext|>``. Begins anew when killed."""
    vocabulary = stage.inputs["tokenizer"] / FILE
    tokenizer = Tokenizer.load(vocabulary)
    counts = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in ("train", "valid")}
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 65_536 else np.uint32)
    with (
        TokenWriter(stage.path, "train", dtype, config.shard_tokens) as train,
        TokenWriter(stage.path, "valid", dtype, config.shard_tokens) as valid,
        reporter.progress("tokenize", None, "bytes") as bar,
    ):
        for batch in read_shards(stage.inputs["clean"], "corpus", ["text"]):
            text = batch.column("text")
            data, offsets = text_buffers(text)
            ids, starts = _with_end(*tokenizer.encode_batch(text, config.threads), tokenizer.end_id)
            held_out = _held_out(data, offsets, config.valid_fraction)
            for split, writer, chosen in (("train", train, ~held_out), ("valid", valid, held_out)):
                part, part_starts = _select(ids, starts, chosen)
                writer.write(part, part_starts)
                counts[split]["documents"] += int(chosen.sum())
                counts[split]["tokens"] += len(part)
                counts[split]["bytes"] += int(np.diff(offsets)[chosen].sum())
            bar.advance(int(offsets[-1] - offsets[0]))
    with artifact.atomic_open(stage.path / FILE) as copy, open(vocabulary, "rb") as original:
        shutil.copyfileobj(original, copy)
    if not counts["valid"]["documents"] and config.valid_fraction:
        raise ValueError(
            f"tokenize.valid_fraction = {config.valid_fraction}: no document of {counts['train']['documents']} is held "
            "out; raise it, or give more documents"
        )
    whole = sum(c["bytes"] for c in counts.values()) / max(sum(c["tokens"] for c in counts.values()), 1)
    return {**counts, "bytes_per_token": whole, "vocab_size": tokenizer.vocab_size}


def _with_end(ids: NDArray[np.uint32], offsets: Longs, end_id: int) -> tuple[NDArray[np.uint32], Longs]:
    """Each document with ``end_id`` behind it."""
    return np.insert(ids, offsets[1:], end_id), offsets + np.arange(len(offsets))


def _held_out(data: Bytes, offsets: Longs, fraction: float) -> NDArray[np.bool_]:
    """Chosen by the text alone: neither order nor neighbours matter."""
    view, limit = data.data, int(fraction * 2**64)
    ends = offsets.tolist()
    hashes = (xxhash.xxh3_64_intdigest(view[a:b]) for a, b in pairwise(ends))
    return np.fromiter((h < limit for h in hashes), bool, len(ends) - 1)


def _select(ids: NDArray[np.uint32], offsets: Longs, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.uint32], Longs]:
    """The chosen documents in a row."""
    lengths = np.diff(offsets)
    return ids[np.repeat(chosen, lengths)], np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[chosen])])
