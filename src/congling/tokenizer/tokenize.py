"""Stage ``tokenize``: corpus and vocabulary → token shards, a held-out part beside the rest."""

from pathlib import Path
from typing import Any

import numpy as np

from congling import artifact
from congling.artifact import Stage
from congling.corpus.tokens import TokenWriter
from congling.reporter import Reporter
from congling.tokenizer.config import TokenizeConfig
from congling.tokenizer.kernels import Bytes, Ids
from congling.tokenizer.passes import Corpus, hash_texts, map_batches
from congling.tokenizer.tokenizer import FILE, Tokenizer
from congling.tokenizer.trie import Longs

SPLITS = ("train", "valid")
Part = tuple[Ids, Longs, int]  # documents of one split: ids, offsets, bytes of their text


def run(stage: Stage, reporter: Reporter, config: TokenizeConfig) -> dict[str, Any]:
    """Writes ``train-*`` and ``valid-*`` shards in the order of the corpus; each document ends with ``<|endoftext|>``.

    A document is held out by a hash of its text: neither order nor neighbours matter, and equal texts stay together.
    A killed run begins anew and writes the same files. Raises ValueError when a split would be empty.
    """
    tokenizer = Tokenizer.load(stage.inputs["tokenizer"])
    counts = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in SPLITS}
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 65_536 else np.uint32)
    with (
        TokenWriter(stage.path, "train", dtype, config.shard_tokens) as train,
        TokenWriter(stage.path, "valid", dtype, config.shard_tokens) as valid,
        reporter.progress("tokenize", _corpus_bytes(stage.inputs["clean"]), "bytes") as bar,
    ):

        def job(data: Bytes, offsets: Longs) -> list[Part]:
            return _split(tokenizer, data, offsets, config.valid_fraction)

        corpus = Corpus.of_stage(stage.inputs["clean"], bar)
        for parts in map_batches(job, corpus, config.threads):
            for split, writer, (ids, starts, text_bytes) in zip(SPLITS, (train, valid), parts, strict=True):
                writer.write(ids.astype(dtype), starts)
                counts[split]["documents"] += len(starts) - 1
                counts[split]["tokens"] += len(ids)
                counts[split]["bytes"] += text_bytes
                bar.advance(text_bytes)
    _check_splits(counts, config.valid_fraction)
    artifact.atomic_write(stage.path / FILE, (stage.inputs["tokenizer"] / FILE).read_bytes())
    total_bytes, total_tokens = (sum(c[key] for c in counts.values()) for key in ("bytes", "tokens"))
    return {**counts, "bytes_per_token": total_bytes / total_tokens, "vocab_size": tokenizer.vocab_size}


def _split(tokenizer: Tokenizer, data: Bytes, offsets: Longs, valid_fraction: float) -> list[Part]:
    """The documents of train and of valid."""
    held_out = hash_texts(data, offsets) < np.uint64(valid_fraction * 2**64)
    ids, starts = tokenizer.encode_batch((data, offsets))
    ids, starts = np.insert(ids, starts[1:], tokenizer.end_id), starts + np.arange(len(starts))
    parts = []
    for chosen in (~held_out, held_out):
        lengths = np.diff(starts)
        part_starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[chosen])])
        parts.append((ids[np.repeat(chosen, lengths)], part_starts, int(np.diff(offsets)[chosen].sum())))
    return parts


def _check_splits(counts: dict[str, dict[str, int]], valid_fraction: float) -> None:
    documents = sum(c["documents"] for c in counts.values())
    if not counts["train"]["documents"] or (valid_fraction and not counts["valid"]["documents"]):
        empty = "to train on" if not counts["train"]["documents"] else "held out"
        raise ValueError(
            f"tokenize.valid_fraction = {valid_fraction}: of {documents} documents none is {empty}; change it, or give "
            "more documents"
        )


def _corpus_bytes(folder: Path) -> int | None:
    """What the clean stage says it wrote."""
    found = artifact.read_manifest(folder)["summary"].get("bytes_out")
    return int(found) if found else None
