"""Which vocabulary lets a small model predict text best: bits per byte on held-out text of the `demo` model after
training on equal bytes, with vocabularies of 8,192 ids made from the same 20 MB.

Rows: ours (each way of joining, sampled counting), SentencePiece unigram, Hugging Face byte-level BPE. The two peers
come from PyPI (`pip install sentencepiece tokenizers`). Usage: python benchmarks/tokenizer_bits.py [million bytes]
[name …]; rows are stored as they are finished, and those stored earlier stay. With "equal tokens" behind it the number
is one of million tokens: the same compute in place of the same text. seed=2 begins from other weights.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from common import RESULTS, store
from congling.evaluate.bits import measure, windows
from congling.model.config import ModelConfig
from congling.model.transformer import Transformer
from congling.pretrain.config import PretrainConfig
from congling.reporter import Metrics, Reporter
from congling.tokenizer.config import TokenizerConfig
from congling.train.checkpoint import Checkpoints
from congling.train.data import TokenWindows
from congling.train.loop import Job, Trainer
from texts import SHARED, corpus, first_bytes, num_bytes, write_tokens
from vocabularies import train_bpe, train_ours, train_sentencepiece

SIZE, TRAIN_BYTES = 8192, 20_000_000
OURS = {
    "ours, joining han": {"joining": "han"},
    "ours, joining words": {"joining": "words"},
    "ours, joining any": {"joining": "any"},
    "ours, joining words, sampled counting": {"joining": "words", "counting": "sample"},
}


def train_model(coder, texts, held_out, seen, per_token, seed, folder):
    """Bits per byte on ``held_out`` after ``seen`` tokens or bytes of ``texts``; what it took."""
    train = write_tokens(coder, texts, folder, "train")
    valid = write_tokens(coder, [text for part in held_out.values() for text in part], folder, "valid")
    bytes_per_token = num_bytes(texts) / train.total
    tokens = seen if per_token else int(seen / bytes_per_token)
    config = PretrainConfig(
        tokens=tokens, lengths=(64, 128, 256), length_shares=(0.4, 0.3, 0.3),
        batch_tokens=2048, micro_batch_tokens=2048, lr=3e-3, lr_final=3e-4, warmup_steps=20, muon_step=40,
        valid_every=10**6, sample_every=10**6, valid_tokens=4096, sample_prompts=(), checkpoint_every=10**6,
    )  # fmt: skip
    model = Transformer(ModelConfig(preset="demo").resolve(SIZE), seed)
    source = TokenWindows(train, 256, seed, None)
    job = Job(
        model=model, source=source, config=config, checkpoints=Checkpoints(folder / "c", source.fingerprint, 1),
        reporter=Reporter(quiet=True), metrics=Metrics(folder / "metrics.jsonl"), token_bytes=coder.token_bytes,
        valid=lambda: windows(valid, 256, 4096), sample=lambda prompt: "", label="", seed=seed,
    )  # fmt: skip
    start = time.perf_counter()
    Trainer(job).run()
    seconds = time.perf_counter() - start
    bits = {}
    for domain, part in {"all": None, **held_out}.items():
        data = valid if part is None else write_tokens(coder, part, folder, domain)
        found = measure(model, windows(data, 256, 10**9), coder.token_bytes, torch.bfloat16)
        bits[domain] = round(found.bits_per_byte, 4)
    return {
        "bits_per_byte": bits.pop("all"),
        **bits,
        "bytes_per_token": round(bytes_per_token, 3),
        "tokens": config.tokens,
        "seconds": round(seconds),
    }


def main():
    if not (SHARED / "data").is_dir():
        print(f"skipped: no {SHARED / 'data'}")
        return
    seen = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 3_000_000
    train, held = corpus()
    texts = first_bytes(train, TRAIN_BYTES)
    held_out = {domain: first_bytes(part, 80_000) for domain, part in held.items()}
    per_token = "equal tokens" in sys.argv  # the same compute in place of the same text
    makers = {
        name: lambda o=options: train_ours(texts, TokenizerConfig(vocab_size=SIZE, **o))
        for name, options in OURS.items()
    }
    makers |= {
        "SentencePiece unigram": lambda: train_sentencepiece(texts, SIZE),
        "byte-level BPE": lambda: train_bpe(texts, SIZE),
    }
    wanted = [name for name in sys.argv[2:] if name in makers] or list(makers)
    seed = next((int(word[5:]) for word in sys.argv if word.startswith("seed=")), 1)
    rows = {}
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            row = name + (f", {seen} tokens" if per_token else "") + (f", seed {seed}" if seed > 1 else "")
            rows[row] = train_model(makers[name](), texts, held_out, seen, per_token, seed, Path(folder))
        print(row, rows[row], flush=True)
        stored = sorted(RESULTS.glob("tokenizer-bits-*.json"))  # read now: another process may have added to it
        earlier = json.loads(stored[-1].read_text())["figures"] if stored and sys.argv[2:] else {}
        store(
            "tokenizer-bits",
            {
                "trained_on_bytes": earlier.get("trained_on_bytes", seen),
                "held_out_bytes": sum(map(num_bytes, held_out.values())),
                "rows": {**earlier.get("rows", {}), **rows},
            },
        )


if __name__ == "__main__":
    main()
