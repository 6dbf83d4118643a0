"""Bodies of requests, as OpenAI's API has them, and our extensions. What is not supported is refused, never ignored."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from congling.infer.config import SampleConfig
from congling.serve.errors import ApiError

MAX_CHOICES, MAX_STOPS, MAX_TOP = 32, 16, 20
_REFUSALS = {
    "tools": "this server calls no tools: leave the field out",
    "functions": "this server calls no functions: leave the field out",
    "function_call": "this server calls no functions: leave the field out",
    "audio": "this server makes text only",
    "modalities": "this server makes text only",
    "suffix": "text cannot be filled in before a suffix; give a prompt alone",
}
Text = Annotated[str, Field(max_length=1000)]
T = TypeVar("T", bound="Common")
_SOME = Field(min_length=1)


class Strict(BaseModel):
    """Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Strict):
    """A part of a message; of other types than text there are none here."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A message of a conversation. Fields of answers that clients send back are taken as long as they are empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[None] | None = Field(None, max_length=0)
    annotations: list[None] | None = Field(None, max_length=0)

    @property
    def plain(self) -> dict[str, str]:
        """As the chat template takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Strict):
    """What a stream ends with."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class JsonSchema(Strict):
    """A schema that the answer follows."""

    name: str = ""
    description: str | None = None
    strict: bool | None = None  # it always is
    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Strict):
    """Which form the answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Common(Strict):
    """What both APIs share. The last group is our extensions; what a request leaves out is as ``[sample]`` says."""

    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, gt=0)
    stop: Text | Annotated[list[Text], Field(max_length=MAX_STOPS)] | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=1024)
    response_format: ResponseFormat | None = None
    user: str | None = None  # who asks, by the client's own account: nothing depends on it

    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0, le=100)
    repetition_decay: float | None = Field(None, ge=0, le=1)
    no_repeat_ngram: int | None = Field(None, ge=0, le=1024)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    beams: int | None = Field(None, ge=0, le=MAX_CHOICES)
    tree: int | None = Field(None, ge=0, le=MAX_CHOICES)
    stop_token_ids: list[int] | None = Field(None, max_length=256)
    regex: str | None = Field(None, max_length=10_000)

    @property
    def stops(self) -> list[str]:
        """Stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def top(self) -> int | None:
        """How many alternatives of each token are wanted; None: no log-probabilities at all."""
        raise NotImplementedError

    @property
    def wanted_tokens(self) -> int | None:
        """Longest answer, as the client has it."""
        return self.max_tokens

    def sampling(self, defaults: SampleConfig) -> SampleConfig:
        """The defaults with what the request says; its seed is left to the caller."""
        named = SampleConfig.model_fields.keys() - {"max_tokens", "max_context", "seed"}
        changes = {key: value for key in named if (value := getattr(self, key)) is not None}
        return defaults.model_copy(update=changes)


class ChatRequest(Common):
    """Body of ``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, gt=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    tools: list[None] | None = Field(None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Common):
    """Body of ``POST /v1/completions``."""

    prompt: str | Annotated[list[int], _SOME] | Annotated[list[str], _SOME] | Annotated[list[list[int]], _SOME]
    max_tokens: int | None = Field(None, ge=0)  # 0: with echo, for the log-probabilities of the prompt
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    suffix: None = None

    @property
    def top(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        return [given] if isinstance(given[0], int) else list(given)


def parse(kind: type[T], body: bytes) -> T:
    """The request in a body. Raises ApiError that names the field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _named(error) from None


def _named(error: ValidationError) -> ApiError:
    """The first field in error. One of several types (a text or a list) has an error for each: the deepest is told."""
    errors = error.errors(include_url=False, include_context=False)
    field = errors[0]["loc"][:1]
    own = [e for e in errors if e["loc"][:1] == field]
    first = max(own, key=lambda e: (len(e["loc"]), not e["type"].endswith("_type")))
    path = [str(part) for part in first["loc"] if not _of_type(part)]
    where = ".".join(path)
    if path and path[0] in _REFUSALS:
        return ApiError(400, f"{path[0]}: {_REFUSALS[path[0]]}", path[0], "unsupported_parameter")
    if path and path[0] == "messages" and "content" in path and path[-1] == "type":
        return ApiError(400, f"{where}: this server takes text only, no images, sound or files", where)
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{where}: not supported by this server", where, "unknown_parameter")
    return ApiError(400, f"{where or 'body'}: {first['msg']}", where or None)


def _of_type(part: int | str) -> bool:
    """Whether a part of a place names one of several types, not a field."""
    return isinstance(part, str) and (part.startswith("list[") or part in ("str", "constrained-str", "[key]"))
