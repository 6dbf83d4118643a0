"""Answers that follow a regular expression or a JSON schema, by llguidance: before each token, which ids may come next.

The library walks our vocabulary's bytes through the grammar, so that tokens may begin and end anywhere, also inside a
character. Works with sampling, beam and tree search: ``Rules(constraint=…)``.
"""

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from congling.chat import stop_ids
from congling.infer.penalties import Words

if TYPE_CHECKING:
    from congling.tokenizer.tokenizer import Tokenizer

# JSON on one line, with or without spaces: a small model that may break lines loses itself in white space.
# A schema can say otherwise: {"x-guidance": {"whitespace_pattern": "…"}}.
_JSON_DEFAULTS = {"whitespace_pattern": " ?"}


class Constraint:
    """A grammar over one vocabulary, made once; ``start`` begins an answer. Immutable, shared by threads."""

    def __init__(self, grammar: str, tokenizer: "Tokenizer", ends: Collection[int] | None, what: str) -> None:
        """ends: ids that end the answer (None: those of the tokenizer)."""
        from llguidance import LLMatcher

        self.vocab_size = tokenizer.vocab_size
        ends = stop_ids(tokenizer) if ends is None else ends
        if not ends:
            raise ValueError("a constraint needs a stop id: without one the model cannot say that its answer ends")
        self._first = LLMatcher(_vocabulary(tokenizer, tuple(sorted(ends))), grammar, log_level=0)
        self._what = what
        start = self.start()
        if not start.words().any():
            raise ValueError(start.trouble)

    @classmethod
    def from_regex(cls, pattern: str, tokenizer: "Tokenizer", ends: Collection[int] | None = None) -> "Constraint":
        """The whole answer matches ``pattern`` (the syntax of Rust's regex: no look-around, no back references).

        Raises ValueError in one line for a pattern that cannot be read.
        """
        from llguidance import LLMatcher

        return cls(LLMatcher.grammar_from_regex(pattern), tokenizer, ends, f"regex {_short(pattern)}")

    @classmethod
    def from_json_schema(
        cls, schema: str | bool | Mapping[str, Any], tokenizer: "Tokenizer", ends: Collection[int] | None = None
    ) -> "Constraint":
        """The answer is JSON that the schema (or its text) describes; {"type": "object"} for any object.

        Raises ValueError in one line for what is no schema, can never be met, or uses keywords that are not known.
        """
        from llguidance import LLMatcher

        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise ValueError(f"JSON schema: not JSON: {error}") from None
        text = json.dumps(schema, ensure_ascii=False)
        if not isinstance(schema, Mapping | bool):
            raise ValueError(f'JSON schema {_short(text)}: must be an object, such as {{"type": "object"}}')
        grammar = LLMatcher.grammar_from_json_schema(text, defaults=_JSON_DEFAULTS)  # type: ignore[arg-type]
        return cls(grammar, tokenizer, ends, f"JSON schema {_short(text)}")

    def start(self) -> "Matcher":
        """The state at the beginning of an answer."""
        return Matcher(self._first.deep_copy(), self._what)


class Matcher:
    """How far one answer has come. Raises nothing, as many answers go on together: after an error no id is allowed."""

    def __init__(self, matcher: Any, what: str) -> None:
        self._matcher, self._what = matcher, what
        self._words: Words | None = None

    @property
    def complete(self) -> bool:
        """The constraint is met and nothing but the end can follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def trouble(self) -> str:
        """Why no id is allowed, in one line."""
        lines = self._matcher.get_error().splitlines()
        reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines[:1]
        reason = (
            reasons[0] if reasons and not reasons[0].startswith("NoExtension") else "no token of the model meets it"
        )
        return f"{self._what}: {reason}"

    def words(self) -> Words:
        """Which ids may come next, one bit each [⌈V / 32⌉]; stop ids where the answer may end."""
        if self._words is None:
            words = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
            self._words = np.zeros_like(words) if self._matcher.is_error() else words
        return self._words

    def push(self, token: int) -> None:
        """``token`` comes next; it must be allowed."""
        self._words = None
        self._matcher.consume_token(token)

    def fork(self) -> "Matcher":
        """An independent copy."""
        twin = Matcher(self._matcher.deep_copy(), self._what)
        twin._words = self._words
        return twin


class _Ids:
    """What llguidance asks of a tokenizer: the bytes of each id, and ids of a text (only as a hint)."""

    bos_token_id = None

    def __init__(self, tokenizer: "Tokenizer", end: int) -> None:
        self.eos_token_id, self._encode = end, tokenizer.encode
        ends = np.cumsum(tokenizer.token_bytes, dtype=np.int64).tolist()
        data = tokenizer.decode_bytes(range(tokenizer.vocab_size))
        parts = [data[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]
        self.special_token_ids = [number for number, part in enumerate(parts) if not part]
        # 0xFF is in no UTF-8, so that no grammar over text ever takes such a name.
        self.tokens = [part or b"\xff<%d>" % number for number, part in enumerate(parts)]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text)


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: "Tokenizer", ends: tuple[int, ...]) -> Any:
    """The vocabulary as a tree of bytes: half a second for 65,536 ids, hence kept."""
    from llguidance import LLTokenizer, TokenizerWrapper

    wrapper = TokenizerWrapper(_Ids(tokenizer, ends[0]))
    return LLTokenizer(wrapper, n_vocab=tokenizer.vocab_size, eos_token=list(ends))


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:59] + "…"
