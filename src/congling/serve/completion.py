"""One answer under way: tokens, text that is certain, why it ended. Nothing of it is shared between requests."""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from congling.chat import render
from congling.infer.config import SampleConfig
from congling.infer.engine import generate
from congling.infer.model import Model
from congling.infer.stream import StreamDecoder
from congling.serve.config import ServeConfig


class Message(BaseModel):
    """A message of a conversation, as OpenAI's API has it; text content only."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str
    name: str | None = None


class StreamOptions(BaseModel):
    """What a stream ends with."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """Body of ``POST /v1/chat/completions``; a field that is not supported is refused, never ignored."""

    model_config = ConfigDict(extra="forbid")
    model: str = ""
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, gt=0)
    max_completion_tokens: int | None = Field(None, gt=0)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)  # what torch takes
    n: Literal[1] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    user: str | None = None


class Completion:
    """Iterating (once) gives the answer's text piece by piece; then ``finish_reason`` and ``usage`` are known.

    Raises ValueError for a conversation that is too long.
    """

    def __init__(self, model: Model, request: ChatRequest, config: ServeConfig, defaults: SampleConfig) -> None:
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        ids, _ = render(messages, model.tokenizer, generation_prompt=True)
        self._prompt = [model.tokenizer.end_id, *ids]
        if len(self._prompt) > config.max_prompt_tokens:
            raise ValueError(f"messages: {len(self._prompt)} tokens, at most {config.max_prompt_tokens} are taken")
        self._tokenizer = model.tokenizer
        sampling = _sampling(request, config, defaults)
        ends = {model.tokenizer.end_id, model.tokenizer.im_start_id, model.tokenizer.im_end_id}
        self._tokens = generate(model.transformer, self._prompt, sampling, ends)
        self._limit = min(sampling.max_tokens, sampling.max_context - len(self._prompt))  # as the engine has it
        self._stops = [request.stop] if isinstance(request.stop, str) else list(request.stop or ())
        self.completion_tokens = 0
        self.finish_reason: Literal["stop", "length"] = "stop"

    def __iter__(self) -> Iterator[str]:
        decoder, held = StreamDecoder(self._tokenizer), ""
        for token in self._tokens:
            self.completion_tokens += 1
            held += decoder.push(token)
            text, held, stopped = split_at_stop(held, self._stops)
            if text or not stopped:
                yield text  # an empty piece lets the caller look whether anybody still listens
            if stopped:
                return
        if self.completion_tokens >= self._limit:
            self.finish_reason = "length"
        yield split_at_stop(held + decoder.finish(), self._stops, last=True)[0]

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of prompt and answer."""
        prompt, answer = len(self._prompt), self.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def split_at_stop(text: str, stops: Sequence[str], last: bool = False) -> tuple[str, str, bool]:
    """(text that is certain, text held back because a stop string may begin there, whether a stop string was met)."""
    found = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    if found:
        return text[: min(found)], "", True
    if last:
        return text, "", False
    longest = max((len(stop) for stop in stops), default=0)
    for size in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return text[:-size], text[-size:], False
    return text, "", False


def _sampling(request: ChatRequest, config: ServeConfig, defaults: SampleConfig) -> SampleConfig:
    wanted = request.max_completion_tokens or request.max_tokens or config.max_tokens
    changes: dict[str, Any] = {"max_tokens": min(wanted, config.max_tokens)}
    for key in ("temperature", "top_p", "seed"):
        if (value := getattr(request, key)) is not None:
            changes[key] = value
    if request.seed is None:
        changes["seed"] = uuid.uuid4().int % 2**31
    return defaults.model_copy(update=changes)
