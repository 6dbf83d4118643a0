"""A ``congling serve`` to measure: a model with random weights where none is given, the process, what it holds."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from congling.model.config import ModelConfig
from congling.model.folder import save_model
from congling.model.transformer import Transformer
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary

V = 65_536
COMMON = [chr(c) for c in range(0x4E00, 0x4E00 + 4000)]


def random_model(folder, preset="jerry-0.18b"):
    """A model folder with all sizes of a real one: made once, then found again."""
    folder = Path(folder) / preset
    if not (folder / "model.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        pairs = [a + b for a in COMMON[:300] for b in COMMON[:300]]
        pieces = (COMMON + pairs)[: V - 272]
        scores = [-1_000_000 - 500_000 * len(piece) for piece in pieces]
        Tokenizer(Vocabulary("congling", pieces, scores, [1] * len(pieces))).save(folder / "vocabulary.txt")
        model = Transformer(ModelConfig(preset=preset).resolve(V), 1)
        with torch.no_grad():
            head = model.head if model.head_affine is None else model.head_affine.value
            head *= sureness(model.eval())
        save_model(folder, model, folder / "vocabulary.txt")
    return folder


def sureness(model, entropy=3.7):
    """The factor on random logits that makes them as sure as a trained model's: 3.7 nats are the seed's last loss.

    Flat ones, that no trained model has, are slow to sample from: the nucleus holds half of the vocabulary."""
    logits = model.logits(model(torch.randint(V, (1, 64), generator=torch.Generator().manual_seed(1))))
    low, high = 0.0, 100.0
    for _ in range(30):
        factor = (low + high) / 2
        p = (factor * logits).log_softmax(-1)
        low, high = (factor, high) if -(p.exp() * p).sum(-1).mean() > entropy else (low, factor)
    return factor


@contextmanager
def serving(model, *settings):
    """Yields (process, port) once requests are answered; then SIGTERM, which must end with 0."""
    command = [sys.executable, "-m", "congling", "serve", str(model), "port=0", *settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    try:
        while "OpenAI API" not in (lines or [""])[-1]:
            lines.append(process.stdout.readline())
            if not lines[-1]:
                raise SystemExit("the server did not start:\n" + "".join(lines))
        yield process, int(lines[-1].split("127.0.0.1:")[1].split("/")[0])
        process.terminate()
        assert process.wait(60) == 0, "SIGTERM did not end with 0"
    finally:
        process.kill()
        process.wait()
        said = process.stdout.read()
        if said.strip() != "stopped":
            print("the server said:", said[-2000:])


def holdings(pid):
    """Memory in MB, threads and file descriptors of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "rss_mb": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "threads": int(status["Threads"]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
    }
