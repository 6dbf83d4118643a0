"""What decides how sequences grow: the protocol between the engine and sampling, beam search, tree search.

A strategy sees logits and says which tokens follow; it belongs to one request and never touches pages or the backend.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

Finish = Literal["stop", "length", "cancelled", "error"]


@dataclass
class Event:
    """A token of an answer, its end, or both: the last token of a "length" carries the end, a stop token is not told.

    "cancelled" and "error" come from the engine and end the whole request: their index is −1.
    """

    index: int  # which of the n answers
    token: int | None = None
    logprob: float | None = None  # of the token, by the model's own distribution
    top: list[tuple[int, float]] = field(default_factory=list)  # likeliest tokens with theirs
    finish: Finish | None = None
    ids: list[int] | None = None  # beam and tree search: a whole answer at once …
    score: float | None = None  # … and how good it was found
    error: str = ""  # one line, with finish "error"


class Sequence:
    """One line of tokens with its pages. Strategies read ``ids``; the engine alone changes anything."""

    __slots__ = ("cached", "exact_pages", "ids", "pages")

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids  # all tokens: prompt and what has grown
        self.cached = 0  # tokens that are in pages; the others are computed in the next steps
        self.pages: list[int] = []
        self.exact_pages = 0  # of the first pages, those that were filled by prompts alone

    def fork(self) -> "Sequence":
        """The same tokens; pages are shared until one of both writes (the caller counts the references)."""
        twin = Sequence(list(self.ids))
        twin.cached, twin.pages, twin.exact_pages = self.cached, list(self.pages), self.exact_pages
        return twin


class Outcome(NamedTuple):
    """What a strategy wants after it has seen the logits behind some sequences.

    The next ``live`` are the children, in the order of ``grow``. A sequence with one child that is not held becomes
    that child (the same object); of several children each further one is a new object. Sequences neither grown nor held
    are freed.
    """

    grow: list[tuple[Sequence, int]]  # each goes on behind that sequence with that token
    hold: list[Sequence]  # kept for later growth though they do not grow now
    events: list[Event]
    done: bool  # the request has ended; the engine frees everything


class Strategy(Protocol):
    """Pure functions of their inputs and their own state (the seed included), never of what else is served."""

    width: int  # most sequences alive at once, held ones included: admission reserves memory for so many
    extra_tokens: int  # most tokens beyond max_tokens that a sequence may have (rollouts), usually 0

    def advance(self, live: list[Sequence], logits: Tensor) -> Outcome:
        """Once with the prompt, then after each step with the sequences that grew.

        logits: [len(live), V] float32; use them now, the next step overwrites them. The strategy itself ends an answer
        at ``max_tokens``; a request whose sequences outgrow what it said is ended with an error.
        """
        ...

    def stop(self, index: int) -> None:
        """Answer ``index`` needs no more tokens (a stop string was met above): let it go at the next ``advance``.

        No event is wanted for it. When it was the last one open, the next Outcome is ``done``.
        """


class BatchStrategy(Strategy, Protocol):
    """A strategy whose class can advance many requests at once: one call a step instead of one a request."""

    @classmethod
    def advance_all(
        cls, strategies: list["BatchStrategy"], lives: list[list[Sequence]], logits: Tensor
    ) -> list[Outcome | Exception]:
        """As ``advance`` for each; logits [Σ len(live), V], one request after another. Errors stay with their own."""
        ...
