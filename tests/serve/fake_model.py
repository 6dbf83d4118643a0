"""A model without weights: its answer is given, a byte a token, and tests can hold it up between tokens."""

import threading
from types import SimpleNamespace

from congling.serve import completion

FIRST_BYTE = 16


class FakeTokenizer:
    end_id, im_start_id, im_end_id = 1, 2, 3

    def encode(self, text):
        return [FIRST_BYTE + b for b in text.encode()]

    def decode_bytes(self, ids):
        return bytes(i - FIRST_BYTE for i in ids)


class FakeModel:
    """``gate``: cleared, the answer stops before its next token. ``made`` tokens so far, ``closed`` generators."""

    def __init__(self, answer="你好，世界！", name="demo-sft", forever=False):
        self.answer, self.name, self.tuned, self.forever = answer, name, True, forever
        self.tokenizer, self.transformer = FakeTokenizer(), self
        self.architecture = SimpleNamespace(vocab_size=272)
        self.gate = threading.Event()
        self.gate.set()
        self.made = self.closed = 0
        self.seen = None

    def install(self, monkeypatch):
        monkeypatch.setattr(completion, "generate", self._generate)
        return self

    def _generate(self, transformer, prompt, sampling, stop_ids):
        assert transformer is self
        assert stop_ids == {1, 2, 3}
        self.seen = (prompt, sampling)
        return self._tokens(min(sampling.max_tokens, sampling.max_context - len(prompt)))

    def _tokens(self, limit):
        ids = self.tokenizer.encode(self.answer)
        try:
            for n in range(limit):
                if n == len(ids) and not self.forever:
                    return
                self.gate.wait(10)
                self.made += 1
                yield ids[n % len(ids)]
        finally:
            self.closed += 1
