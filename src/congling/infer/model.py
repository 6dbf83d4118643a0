"""The public ``Model``: a transformer and its tokenizer, text in and text out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor

from congling import artifact
from congling.chat import Message, render
from congling.infer.config import SampleConfig
from congling.infer.engine import generate, generate_batch
from congling.infer.stream import StreamDecoder
from congling.model.folder import VOCABULARY, load_model
from congling.model.transformer import Transformer

if TYPE_CHECKING:
    from congling.tokenizer.tokenizer import Tokenizer

_TUNED = ("sft", "align")  # stages whose models know the chat template


class Model:
    """A trained model. ``Model.load("runs/demo/sft")``; then ``logits``, ``generate``, ``chat``."""

    def __init__(
        self, transformer: Transformer, tokenizer: "Tokenizer", tuned: bool = True, name: str = "model"
    ) -> None:
        self.transformer, self.tokenizer = transformer, tokenizer
        self.tuned = tuned  # knows the chat template
        self.name = name

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "Model":
        """The model of a finished stage (or any model folder). Raises ArtifactError in one line."""
        from congling.tokenizer.tokenizer import Tokenizer

        folder = Path(folder)
        transformer = load_model(folder, device, dtype)
        manifest = artifact.read_manifest(folder) if (folder / artifact.MANIFEST).exists() else None
        tuned = manifest is None or manifest["stage"] in _TUNED
        tokenizer = Tokenizer.load(folder / VOCABULARY)
        rows = transformer.architecture.vocab_size
        if tokenizer.vocab_size != rows:
            raise artifact.ArtifactError(f"{folder}: {VOCABULARY} has {tokenizer.vocab_size} ids, the model {rows}")
        return cls(transformer, tokenizer, tuned, "-".join(folder.resolve().parts[-2:]))

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Scores of every next token, [T, V] float32."""
        batch = torch.tensor([list(ids)], device=self.transformer.embedding.device)
        return self.transformer.logits(self.transformer(batch))[0]

    @overload
    def generate(self, text: str, sampling: SampleConfig | None = None, stream: Literal[False] = False) -> str: ...
    @overload
    def generate(self, text: str, sampling: SampleConfig | None = None, *, stream: Literal[True]) -> Iterator[str]: ...
    def generate(self, text: str, sampling: SampleConfig | None = None, stream: bool = False) -> str | Iterator[str]:
        """Plain continuation of ``text`` as a document; whole, or piece by piece with ``stream``."""
        prompt = [self.tokenizer.end_id, *self.tokenizer.encode(text)]
        pieces = self._pieces(prompt, sampling or SampleConfig())
        return pieces if stream else "".join(pieces)

    @overload
    def chat(
        self, messages: Sequence[Message], sampling: SampleConfig | None = None, stream: Literal[False] = False
    ) -> str: ...
    @overload
    def chat(
        self, messages: Sequence[Message], sampling: SampleConfig | None = None, *, stream: Literal[True]
    ) -> Iterator[str]: ...
    def chat(
        self, messages: Sequence[Message], sampling: SampleConfig | None = None, stream: bool = False
    ) -> str | Iterator[str]:
        """The assistant's next message after ``messages`` ({"role", "content"} each). Raises ValueError."""
        pieces = self._pieces(self._chat_prompt(messages), sampling or SampleConfig())
        return pieces if stream else "".join(pieces)

    def chat_batch(
        self, dialogues: Sequence[Sequence[Message]], sampling: SampleConfig | None = None, batch_size: int = 32
    ) -> list[str]:
        """``chat`` for many dialogues at once, several times as fast; all with the same settings and seed."""
        prompts = [self._chat_prompt(messages) for messages in dialogues]
        answers = generate_batch(self.transformer, prompts, sampling or SampleConfig(), self._stop_ids(), batch_size)
        return [self.tokenizer.decode(answer) for answer in answers]

    def _chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        return [self.tokenizer.end_id, *render(messages, self.tokenizer, generation_prompt=True)[0]]

    def _stop_ids(self) -> set[int]:
        return {self.tokenizer.end_id, self.tokenizer.im_start_id, self.tokenizer.im_end_id}

    def _pieces(self, prompt: list[int], sampling: SampleConfig) -> Iterator[str]:
        tokens = generate(self.transformer, prompt, sampling, self._stop_ids())  # a bad prompt is an error here and now
        return _text(tokens, StreamDecoder(self.tokenizer))


def _text(tokens: Iterator[int], decoder: StreamDecoder) -> Iterator[str]:
    for token in tokens:
        if piece := decoder.push(token):
            yield piece
    if rest := decoder.finish():
        yield rest
