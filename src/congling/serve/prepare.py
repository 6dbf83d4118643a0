"""From the body of a request to requests of the engine."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from congling.chat import stop_ids, stop_strings
from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.infer.penalties import Rules
from congling.infer.request import Request
from congling.infer.search import make_strategy
from congling.infer.text import Piece
from congling.serve.config import ServeConfig
from congling.serve.echo import score_prompt
from congling.serve.errors import ApiError
from congling.serve.schema import ChatRequest, Common, CompletionRequest

MAX_ROWS = 128  # answers of one request, over all its prompts
_JSON_OBJECT = {"type": "object"}


@dataclass
class Plan:
    """What one HTTP request asks of the engine."""

    requests: list[Request]  # one a prompt; none when nothing is to be generated
    n: int  # answers of each
    stops: Sequence[str]
    prompt_tokens: int
    echoes: list[Piece] = field(default_factory=list)  # of each prompt, what stands before its answers


class Planner:
    """Makes plans for one model. Raises ApiError and ValueError for what cannot be done."""

    def __init__(self, model: Model, config: ServeConfig, defaults: SampleConfig) -> None:
        self._model, self._config, self._defaults = model, config, defaults

    def plan(self, body: Common, client: str) -> Plan:
        """The plan for a body of either API."""
        if isinstance(body, ChatRequest):
            return self._chat(body, client)
        assert isinstance(body, CompletionRequest)
        return self._completion(body, client)

    def _chat(self, body: ChatRequest, client: str) -> Plan:
        if not self._model.tuned:  # it would answer, but with noise: it has never seen the markers of the template
            message = "a base model: it continues text (/v1/completions), it was never taught to chat"
            raise ApiError(400, message, "model", "not_a_chat_model")
        prompt = self._model.chat_prompt([message.plain for message in body.messages])
        self._check(prompt, "messages")
        stops = [*body.stops, *stop_strings(self._model.tokenizer)]
        return Plan([self._request(body, prompt, client, self._rules(body))], body.n or 1, stops, len(prompt))

    def _completion(self, body: CompletionRequest, client: str) -> Plan:
        prompts = [self._model.text_prompt(given) if isinstance(given, str) else list(given) for given in body.prompts]
        n = body.n or 1
        if len(prompts) * max(n, body.best_of or 1) > MAX_ROWS:
            raise ApiError(400, f"prompt: {len(prompts)} prompts × {n}: at most {MAX_ROWS} answers a request", "prompt")
        for prompt in prompts:
            self._check(prompt, "prompt")
        plan = Plan([], n, body.stops, sum(map(len, prompts)))
        if body.echo:
            plan.echoes = [self._echo(body, given, ids) for given, ids in zip(body.prompts, prompts, strict=True)]
        elif body.max_tokens == 0:
            raise ApiError(400, "max_tokens: 0 is for echo only", "max_tokens")
        if body.max_tokens != 0:
            rules = self._rules(body)
            plan.requests = [self._request(body, prompt, client, rules) for prompt in prompts]
        return plan

    def _check(self, prompt: list[int], parameter: str) -> None:
        rows, most = self._model.transformer.architecture.vocab_size, self._config.max_prompt_tokens
        if not prompt:
            raise ApiError(400, f"{parameter}: an empty prompt has nothing to go on from", parameter)
        if len(prompt) > most:
            message = f"{parameter}: {len(prompt)} tokens, at most {most} are taken"
            raise ApiError(400, message, parameter, "context_length_exceeded")
        if not 0 <= min(prompt) <= max(prompt) < rows:
            raise ApiError(400, f"{parameter}: ids must be 0 … {rows - 1}", parameter)

    def _request(self, body: Common, prompt: list[int], client: str, rules: Rules) -> Request:
        model, most = self._model, self._config.max_tokens
        sampling = body.sampling(self._defaults).model_copy(
            update={"max_tokens": min(body.wanted_tokens or most, most)}
        )
        limit = model.room(prompt, sampling)
        seed = random.getrandbits(63) if body.seed is None else body.seed % 2**64
        sampling = sampling.model_copy(update={"max_tokens": limit, "seed": seed})
        if body.beams and body.top is not None:
            raise ApiError(400, "logprobs: beam search tells whole answers, without log-probabilities", "logprobs")
        strategy = make_strategy(
            sampling,
            model.transformer.architecture.vocab_size,
            {*stop_ids(model.tokenizer), *(body.stop_token_ids or ())},
            n=body.n or 1,
            best_of=body.best_of,
            beams=body.beams or 0,
            tree=body.tree or 0,
            rules=rules,
            logprobs=body.top,
        )
        exact = body.seed is not None or sampling.temperature == 0
        return Request(prompt, strategy, limit, exact, client)

    def _rules(self, body: Common) -> Rules:
        from congling.infer.constrain import Constraint

        wanted, constraint = body.response_format, None
        tokenizer, ends = self._model.tokenizer, stop_ids(self._model.tokenizer)
        if body.regex is not None:
            if wanted is not None and wanted.type != "text":
                raise ApiError(400, "regex: an answer has one form, response_format names another", "regex")
            constraint = Constraint.from_regex(body.regex, tokenizer, ends)
        elif wanted is not None and wanted.type == "json_object":
            constraint = Constraint.from_json_schema(_JSON_OBJECT, tokenizer, ends)
        elif wanted is not None and wanted.type == "json_schema":
            if wanted.json_schema is None:
                raise ApiError(400, "response_format.json_schema: missing", "response_format.json_schema")
            constraint = Constraint.from_json_schema(wanted.json_schema.json_schema, tokenizer, ends)
        return Rules(bias=body.logit_bias or {}, constraint=constraint)

    def _echo(self, body: CompletionRequest, given: str | list[int], ids: list[int]) -> Piece:
        """The prompt as the client gave it, and its log-probabilities where they are wanted."""
        own = ids if isinstance(given, list) else self._model.tokenizer.encode(given)
        text = given if isinstance(given, str) else self._model.tokenizer.decode(ids)
        return Piece(text, [] if body.top is None else score_prompt(self._model, ids, len(own), body.top))


def is_quick(body: Common, size: int) -> bool:
    """Whether a plan takes so little time that other answers need not wait for a thread to make it."""
    forms = body.regex is not None or (body.response_format is not None and body.response_format.type != "text")
    scores = isinstance(body, CompletionRequest) and body.echo and body.top is not None
    return size < 32_768 and not forms and not scores
