"""The public ``Model``: a transformer and its tokenizer, text in and text out."""

import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from congling import artifact
from congling.chat import Message, begin_ids, render, stop_ids, stop_strings
from congling.infer.backend import Backend
from congling.infer.config import EngineConfig, SampleConfig
from congling.infer.engine import Engine
from congling.infer.job import worst_case
from congling.infer.penalties import Rules
from congling.infer.request import Handle, Request
from congling.infer.search import make_strategy
from congling.infer.text import TextStream
from congling.infer.torch_backend import TorchBackend
from congling.model.folder import VOCABULARY, load_model
from congling.model.transformer import Transformer

if TYPE_CHECKING:
    from congling.tokenizer.tokenizer import Tokenizer

_TUNED = ("sft", "align")  # stages whose models know the chat template


class Options(TypedDict, total=False):
    """How an answer is searched for, beside ``SampleConfig``."""

    beams: int  # beam search with so many beginnings
    tree: int  # tree search with so many branches
    rules: Rules  # biases, allowed ids, a constraint
    exact: bool  # true: the same text whatever was asked before; false: a chat's next turn takes over more of the last


class Model:
    """A trained model. ``Model.load("runs/demo/sft")``; then ``logits``, ``generate``, ``chat``, from any thread."""

    def __init__(
        self,
        transformer: Transformer,
        tokenizer: "Tokenizer",
        tuned: bool = True,
        name: str = "model",
        engine: EngineConfig | None = None,
        live: bool = False,
    ) -> None:
        """live: the weights change between calls (a training): they are read anew, and nothing is kept of a call."""
        self.transformer, self.tokenizer = transformer, tokenizer
        self.tuned = tuned  # knows the chat template
        self.name = name
        self.engine_config, self._live = engine or EngineConfig(), live
        self._engine: Engine | None = None
        self._making = threading.Lock()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        engine: EngineConfig | None = None,
    ) -> "Model":
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
        return cls(transformer, tokenizer, tuned, "-".join(folder.resolve().parts[-2:]), engine)

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Scores of every next token, [T, V] float32."""
        batch = torch.tensor([list(ids)], device=self.transformer.embedding.device)
        return self.transformer.logits(self.transformer(batch))[0]

    @overload
    def generate(
        self,
        text: str,
        sampling: SampleConfig | None = None,
        stream: Literal[False] = False,
        **options: Unpack[Options],
    ) -> str: ...
    @overload
    def generate(
        self, text: str, sampling: SampleConfig | None = None, *, stream: Literal[True], **options: Unpack[Options]
    ) -> Iterator[str]: ...
    def generate(
        self, text: str, sampling: SampleConfig | None = None, stream: bool = False, **options: Unpack[Options]
    ) -> str | Iterator[str]:
        """Plain continuation of ``text`` as a document; whole, or piece by piece with ``stream``. Raises ValueError."""
        pieces = self._pieces(self.text_prompt(text), sampling or SampleConfig(), (), **options)
        return pieces if stream else "".join(pieces)

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        sampling: SampleConfig | None = None,
        stream: Literal[False] = False,
        **options: Unpack[Options],
    ) -> str: ...
    @overload
    def chat(
        self,
        messages: Sequence[Message],
        sampling: SampleConfig | None = None,
        *,
        stream: Literal[True],
        **options: Unpack[Options],
    ) -> Iterator[str]: ...
    def chat(
        self,
        messages: Sequence[Message],
        sampling: SampleConfig | None = None,
        stream: bool = False,
        **options: Unpack[Options],
    ) -> str | Iterator[str]:
        """The assistant's next message after ``messages`` ({"role", "content"} each). Raises ValueError."""
        stops = stop_strings(self.tokenizer)
        pieces = self._pieces(self.chat_prompt(messages), sampling or SampleConfig(), stops, **options)
        return pieces if stream else "".join(pieces)

    def chat_batch(
        self, dialogues: Sequence[Sequence[Message]], sampling: SampleConfig | None = None, batch_size: int = 32
    ) -> list[str]:
        """``chat`` for many dialogues at once, several times as fast; all with the same settings and seed."""
        settings, stops = sampling or SampleConfig(), stop_strings(self.tokenizer)
        requests = [self.request(self.chat_prompt(messages), settings) for messages in dialogues]
        engine = self._engine_for(requests)
        for request in requests:
            engine.check(request)
        answers: list[str] = []
        going: deque[Handle] = deque()
        for number in range(len(requests) + 1):
            while going and (len(going) == batch_size or number == len(requests)):
                answers.append("".join(_text(going.popleft(), TextStream(self.tokenizer, stops))))
            if number < len(requests):
                going.append(engine.submit(requests[number]))
        return answers

    # -- what the server builds on ---------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The engine of all requests, made when it is first needed. Raises ValueError for settings that cannot be."""
        with self._making:
            if self._engine is None:
                self._engine = Engine(make_backend(self.transformer, self.engine_config), self.engine_config)
            return self._engine

    def text_prompt(self, text: str) -> list[int]:
        """Ids of a document's beginning."""
        return [*begin_ids(self.tokenizer), *self.tokenizer.encode(text)]

    def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the assistant speaks. Raises ValueError."""
        return [*begin_ids(self.tokenizer), *render(messages, self.tokenizer, generation_prompt=True)[0]]

    def request(
        self,
        prompt: list[int],
        sampling: SampleConfig,
        ends: Collection[int] | None = None,
        **options: Unpack[Options],
    ) -> Request:
        """A request for the engine; ends: ids that end the answer (None: those of the tokenizer). Raises ValueError."""
        limit = self.room(prompt, sampling)
        settings = sampling.model_copy(update={"max_tokens": limit})
        ends = stop_ids(self.tokenizer) if ends is None else ends
        beams, tree, rules = options.get("beams", 0), options.get("tree", 0), options.get("rules")
        rows = self.transformer.architecture.vocab_size
        strategy = make_strategy(settings, rows, ends, beams=beams, tree=tree, rules=rules)
        return Request(prompt, strategy, limit, options.get("exact", True))

    def room(self, prompt: Sequence[int], sampling: SampleConfig) -> int:
        """Tokens that an answer may have. Raises ValueError for a prompt that leaves none."""
        places = self.transformer.architecture.max_len or sampling.max_context
        if len(prompt) >= min(places, sampling.max_context):
            which = "max_context is" if places >= sampling.max_context else "the places of the model are"
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, {which} {min(places, sampling.max_context)}; shorten it"
                + (" or raise that" if places >= sampling.max_context else "")
            )
        return min(sampling.max_tokens, sampling.max_context - len(prompt), places - len(prompt))

    def _engine_for(self, requests: Sequence[Request]) -> Engine:
        """The engine; of a model in training a new one, no larger than these requests want it."""
        if not self._live:
            return self.engine
        backend = TorchBackend(self.transformer)
        rows = min(self.engine_config.max_batch, sum(request.strategy.width for request in requests))
        pages = max(worst_case(request, backend.page_tokens) for request in requests) * len(requests)
        wanted = -(-pages * backend.page_bytes >> 20)
        changes = {"memory_mb": min(wanted, self.engine_config.memory_mb), "prefix_reuse": False, "max_batch": rows}
        return Engine(backend, self.engine_config.model_copy(update=changes))

    def _pieces(
        self, prompt: list[int], sampling: SampleConfig, stops: Sequence[str], **options: Unpack[Options]
    ) -> Iterator[str]:
        request = self.request(prompt, sampling, **options)
        engine = self._engine_for([request])
        engine.check(request)  # a bad prompt is an error here and now; the request enters when somebody reads
        return _answer(engine, request, TextStream(self.tokenizer, stops))


def make_backend(transformer: Transformer, config: EngineConfig) -> Backend:
    """The CPU kernels where they can be used, else plain torch. Raises ValueError for a precision that is not there."""
    from congling.infer import cpu

    if transformer.embedding.device.type == "cpu" and cpu.available():
        from congling.infer.cpu.backend import CpuBackend

        return CpuBackend(transformer, config.precision, config.cache, config.cache_precision, config.threads)
    own = transformer.embedding.dtype
    auto = torch.bfloat16 if transformer.embedding.device.type == "cuda" else own
    wanted = {"auto": auto, "fp32": torch.float32, "bf16": torch.bfloat16}.get(config.precision)
    if wanted is None:
        raise ValueError(f"engine.precision = {config.precision}: only on a CPU with numba; use auto, fp32 or bf16")
    if wanted != own:
        transformer = deepcopy(transformer).to(wanted)
    return TorchBackend(transformer, config.cache, config.cache_precision)


def _answer(engine: Engine, request: Request, stream: TextStream) -> Iterator[str]:
    yield from _text(engine.submit(request), stream)


def _text(handle: Handle, stream: TextStream) -> Iterator[str]:
    """The first answer's text. RuntimeError when the engine failed."""
    with closing(handle.events()) as events:
        for event in events:
            if event.finish == "error":
                raise RuntimeError(event.error)
            for piece in stream.push(event) if event.index <= 0 else ():
                if piece.text:
                    yield piece.text
                if piece.finish is not None:
                    return
