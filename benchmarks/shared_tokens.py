"""The tokens that the benchmarks of training read: text of ../shared/data/pretrain in a stated mix, our own small
vocabulary trained on it, documents held out by a hash of their text. Made once in a folder; nothing of it is committed.

Usage: python benchmarks/shared_tokens.py FOLDER
"""

import json
import random
import sys
from pathlib import Path

from congling.corpus.tokens import TokenDataset
from congling.tokenizer.config import TokenizerConfig
from congling.tokenizer.tokenizer import Tokenizer
from texts import DOMAINS, SHARED, documents, first_bytes, is_held_out, num_bytes, write_tokens
from vocabularies import train_stage, write_corpus

VOCAB_SIZE = 4096
# Bytes of training text. All of it by domain would be classics and verse by half.
MIX = {"laws": 4_000_000, "classics": 8_000_000, "poetry": 1_500_000, "tech": 8_000_000, "prose": 6_500_000}
HELD_OUT = 60_000  # bytes a domain
_READY = "mix.json"


def absent():
    """Says so, and returns True, where there is no shared text."""
    missing = not (SHARED / "data" / "pretrain").is_dir()
    if missing:
        print(f"skipped: no {SHARED / 'data' / 'pretrain'}")
    return missing


def shared_tokens(folder):
    """(tokenizer, training tokens, held-out tokens) in ``folder``."""
    folder = Path(folder)
    if not (folder / _READY).exists():
        _make(folder)
    return Tokenizer.load(folder / "tokenizer"), TokenDataset(folder, "train"), TokenDataset(folder, "valid")


def mix(folder):
    """Bytes, documents and tokens of each domain and split."""
    return json.loads((Path(folder) / _READY).read_text())


def _texts():
    """{domain: (training, held out)}, exact duplicates once, shuffled; a fiftieth is held out."""
    found = {}
    for domain, files in DOMAINS.items():
        paths = [SHARED / "data" / "pretrain" / f"{file}.jsonl.zst" for file in files]
        texts = list(dict.fromkeys(text for path in paths for text in documents(path)))
        random.Random(domain).shuffle(texts)
        held = [text for text in texts if is_held_out(text)]
        train = [text for text in texts if not is_held_out(text)]
        found[domain] = first_bytes(train, MIX[domain]), _beginnings(held)
    return found


def _beginnings(texts):
    """No more than 3,000 characters of a document, so that a domain is not one novel."""
    return first_bytes([text[:3000] for text in texts], HELD_OUT)


def _make(folder):
    texts = _texts()
    train = [text for part, _ in texts.values() for text in part]
    random.Random(0).shuffle(train)
    folder.mkdir(parents=True, exist_ok=True)
    train_stage(write_corpus(train, folder / "clean"), folder / "tokenizer", TokenizerConfig(vocab_size=VOCAB_SIZE))
    coder = Tokenizer.load(folder / "tokenizer")
    write_tokens(coder, train, folder, "train")
    write_tokens(coder, [text for _, held in texts.values() for text in held], folder, "valid")
    sizes = {
        domain: {
            split: {"documents": len(part), "bytes": num_bytes(part)}
            for split, part in zip(("train", "valid"), parts, strict=True)
        }
        for domain, parts in texts.items()
    }
    (folder / _READY).write_text(json.dumps(sizes))


if __name__ == "__main__" and not absent():
    _, train, valid = shared_tokens(sys.argv[1])
    print(json.dumps(mix(sys.argv[1]), indent=1), train.total, valid.total)
