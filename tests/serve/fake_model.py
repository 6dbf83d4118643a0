"""A model without weights on the real engine: its answer is given, a byte a token, and tests can hold it up."""

import threading
from types import MappingProxyType, SimpleNamespace

import numpy as np
import torch

from congling.infer.config import EngineConfig
from congling.infer.engine import Engine
from congling.infer.model import Model

FIRST_BYTE, V = 16, 272


class FakeTokenizer:
    vocab_size, end_id, im_start_id, im_end_id = V, 1, 2, 3
    special = MappingProxyType({"<|pad|>": 0, "<|endoftext|>": 1, "<|im_start|>": 2, "<|im_end|>": 3})
    token_bytes = np.array([0] * FIRST_BYTE + [1] * 256)

    def encode(self, text):
        return [FIRST_BYTE + b for b in (text.encode() if isinstance(text, str) else text)]

    def piece(self, number):
        return self.decode_bytes([number])

    def decode_bytes(self, ids):
        return bytes(i - FIRST_BYTE for i in ids if i >= FIRST_BYTE)

    def decode(self, ids):
        return self.decode_bytes(ids).decode("utf-8", "replace")


class FakeBackend:
    """Writes ids into its pages, and answers by what stands there behind the last end of a line."""

    vocab_size, page_tokens, page_bytes, max_len = V, 32, 1 << 12, 0

    def __init__(self, model):
        self.model = model

    def allocate(self, num_pages):
        self.pages = np.zeros((num_pages, self.page_tokens), np.int64)

    def copy_page(self, source, target):
        self.pages[target] = self.pages[source]

    def forward(self, batch):
        self.model.step()
        logits = np.full((len(batch.ids), V), -50.0, np.float32)
        for s in range(len(batch.lengths)):
            line = self.pages[batch.tables[s]].ravel()
            for row in range(batch.starts[s], batch.starts[s + 1]):
                place = batch.lengths[s] + row - batch.starts[s]
                line[place] = batch.ids[row]
                page, slot = divmod(place, self.page_tokens)
                self.pages[batch.tables[s][page], slot] = batch.ids[row]
                logits[row, self.model.next(line[: place + 1].tolist())] = 50
        return torch.from_numpy(logits[batch.wanted])


class FakeModel(Model):
    """``gate``: cleared, the engine stands still. ``fail``: what the next step raises."""

    def __init__(self, answer="你好，世界！", name="demo-sft", forever=False, tuned=True, **engine):
        transformer = SimpleNamespace(architecture=SimpleNamespace(vocab_size=V, max_len=0))
        super().__init__(transformer, FakeTokenizer(), tuned, name)
        self.answer, self.forever, self.fail = answer, forever, None
        self.gate = threading.Event()
        self.gate.set()
        self.steps, self.seconds = 0, 0.0
        self._engine = Engine(FakeBackend(self), EngineConfig(**{"memory_mb": 16, **engine}))

    def step(self):
        self.steps += 1
        self.gate.wait(10)
        threading.Event().wait(self.seconds)
        if self.fail is not None:
            raise self.fail

    def next(self, ids):
        newline = FIRST_BYTE + 10
        tail = ids[len(ids) - ids[::-1].index(newline) :] if newline in ids else ids
        place = sum(i >= FIRST_BYTE for i in tail)
        answer = self.tokenizer.encode(self.answer)
        if place >= len(answer) and not self.forever:
            return self.tokenizer.im_end_id
        return answer[place % len(answer)]

    @property
    def made(self):
        return self.engine.stats.tokens

    @property
    def closed(self):
        return sum(self.engine.stats.ended.values())

    @property
    def idle(self):
        stats = self.engine.stats
        return stats.running == stats.waiting == stats.pages_held == 0
