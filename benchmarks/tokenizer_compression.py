"""Bytes a token on held-out text, a domain a row, of vocabularies of 65,536 ids made from the same text: ours (each way
of joining, both ways of counting) beside SentencePiece unigram, bytepiece and byte-level BPE.

The peers come from PyPI: `pip install sentencepiece tokenizers bytepiece` (bytepiece builds with Cython, and
needs pyahocorasick built with AHOCORASICK_BYTES=1). Usage: python benchmarks/tokenizer_compression.py [million bytes of
training text] [name …]; with names, other stored rows stay.
"""

import json
import sys

from common import RESULTS, store
from congling.tokenizer.config import TokenizerConfig
from texts import SHARED, corpus, first_bytes, num_bytes
from vocabularies import train_bpe, train_bytepiece, train_ours, train_sentencepiece

SIZE = 65_536
OURS = {
    "ours": {},
    "ours, joining any": {"joining": "any"},
    "ours, joining any, up to 16 characters": {"joining": "any", "max_piece_length": 16},
    "ours, joining any, up to 16, slower": {"joining": "any", "max_piece_length": 16, "shrink": 0.8, "min_count": 2},
    "ours, joining han": {"joining": "han"},
    "ours, sampled counting": {"counting": "sample"},
    "ours, pieces of up to 16 characters": {"max_piece_length": 16},
    "ours, scores of all lengths alike": {"score": "frequency"},
    "ours, pruned by loss": {"prune": "loss"},
}


def main():
    if not (SHARED / "data").is_dir():
        print(f"skipped: no {SHARED / 'data'}")
        return
    train, held_out = corpus()
    texts = first_bytes(train, int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 16_000_000)
    sizes = {domain: num_bytes(part) for domain, part in held_out.items()}
    makers = {
        name: lambda o=o: train_ours(texts, TokenizerConfig(vocab_size=SIZE, threads=1, **o))
        for name, o in OURS.items()
    }
    makers |= {
        "SentencePiece unigram": lambda: train_sentencepiece(texts, SIZE),
        "byte-level BPE": lambda: train_bpe(texts, SIZE),
        "bytepiece": lambda: train_bytepiece(texts, SIZE),
    }
    wanted = [name for name in sys.argv[2:] if name in makers]
    stored = sorted(RESULTS.glob("tokenizer-compression-*.json"))
    rows = json.loads(stored[-1].read_text())["figures"]["bytes_per_token"] if stored and wanted else {}
    for name in wanted or makers:
        coder = makers[name]()
        tokens = {domain: sum(len(coder.encode(text)) for text in part) for domain, part in held_out.items()}
        rows[name] = {"seconds": round(coder.seconds, 1)} | {d: round(sizes[d] / tokens[d], 3) for d in tokens}
        print(name, rows[name], flush=True)
    store(
        "tokenizer-compression",
        {"trained_on_bytes": num_bytes(texts), "held_out_bytes": sizes, "bytes_per_token": rows},
    )


if __name__ == "__main__":
    main()
