"""Ids in, ids out: many requests decoded together. All state of a request is in its ``Job``; weights are read-only.

A step is one forward pass of the backend: a row for each sequence that decodes, and a part of the prompts under way.
Whoever holds the stepping lock makes the steps: the server's thread (``run``), or the threads that wait for events.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from congling.infer.backend import Backend, Batch
from congling.infer.config import EngineConfig
from congling.infer.job import Job, admit, worst_case
from congling.infer.lookup import draft
from congling.infer.pages import Pool, keys
from congling.infer.request import Handle, QueueFull, Request, WaitingLine
from congling.infer.strategy import Event, Finish, Outcome, Sequence


class Part(NamedTuple):
    """The tokens of one sequence that a step computes."""

    job: Job
    sequence: Sequence
    ids: list[int]  # the next ones behind what is cached, then guessed ones
    wanted: int  # of the last rows, how many want logits
    prompt: bool


@dataclass
class Stats:
    """Counts since the engine was made, and how things stand."""

    running: int = 0
    waiting: int = 0
    pages_held: int = 0
    pages_kept: int = 0  # held by nobody, there for prompts that begin alike
    pages_total: int = 0
    page_bytes: int = 0
    steps: int = 0
    seconds: float = 0.0  # in steps
    prompt_tokens: int = 0  # computed
    reused_tokens: int = 0  # taken over instead
    reused_prompts: int = 0
    tokens: int = 0  # told in events
    guessed_tokens: int = 0  # by prompt lookup
    accepted_tokens: int = 0
    ended: Counter[str] = field(default_factory=Counter)  # requests by how they ended: "done", "cancelled", "error"


class Engine:
    """Continuous batching over a backend. Raises ValueError when the memory holds no page."""

    def __init__(self, backend: Backend, config: EngineConfig | None = None) -> None:
        self.backend, self.config = backend, config or EngineConfig()
        num_pages = min((self.config.memory_mb << 20) // backend.page_bytes, 2**31 - 1)
        if num_pages < 1:
            raise ValueError(f"engine.memory_mb = {self.config.memory_mb}: a page takes {backend.page_bytes:,} bytes")
        backend.allocate(num_pages)
        self.after_step: Callable[[], None] | None = None  # once a step that had events, on the stepping thread
        self._pool = Pool(num_pages, backend.page_tokens)
        self._jobs: list[Job] = []  # oldest first
        self._stats = Stats(pages_total=num_pages, page_bytes=backend.page_bytes)
        self._stepping = threading.RLock()  # guards all of the above
        self._door = threading.Condition()  # guards what follows; never held during a forward pass
        self._line = WaitingLine()
        self._asked: list[tuple[Handle, int | None]] = []  # to cancel (None), or answers to stop
        self._runners = 0

    # -- from any thread -------------------------------------------------------------------------------------------

    def check(self, request: Request) -> None:
        """Raises ValueError for a request that can never run."""
        prompt, limit, size = request.prompt, request.max_tokens, self.backend.page_tokens
        if not prompt:
            raise ValueError("an empty prompt: give at least one token")
        if min(prompt) < 0 or max(prompt) >= self.backend.vocab_size:
            allowed = f"0 … {self.backend.vocab_size - 1}"
            raise ValueError(f"prompt ids must be {allowed}, got {min(prompt)} … {max(prompt)}")
        if limit < 1:
            raise ValueError(f"max_tokens = {limit}: at least 1")
        total = len(prompt) + limit + request.strategy.extra_tokens
        if 0 < self.backend.max_len < total:
            raise ValueError(f"prompt and answer may take {total} tokens, the model has {self.backend.max_len} places")
        if request.strategy.width > self.config.max_batch:
            raise ValueError(f"{request.strategy.width} sequences at once, engine.max_batch is {self.config.max_batch}")
        if worst_case(request, size) > self._pool.num_pages:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and {request.strategy.width} × {limit} more may take"
                f" {worst_case(request, size) * size} tokens of memory, there is room for"
                f" {self._pool.num_pages * size}: raise engine.memory_mb"
            )

    def submit(self, request: Request, on_events: Callable[[list[Event]], None] | None = None) -> Handle:
        """Puts a request in the line. Raises ValueError as ``check``, QueueFull when too many wait."""
        self.check(request)
        handle = Handle(self, request, on_events)
        if self.config.prefix_reuse:  # the last token is computed: its logits are wanted
            handle.prefix = list(keys(request.prompt[:-1], self.backend.page_tokens))
        with self._door:
            if len(self._line) >= max(self.config.max_waiting, 1):
                raise QueueFull(f"{len(self._line)} requests wait already: try again in a moment")
            self._line.append(handle)
            self._door.notify_all()
        return handle

    def ask(self, handle: Handle, index: int | None) -> None:
        """For ``Handle``: cancel it, or stop one of its answers, before the next step."""
        with self._door:
            self._asked.append((handle, index))
            self._door.notify_all()

    def progress(self, handle: Handle) -> None:
        """For ``Handle.events``: waits until another thread or this one has made a step."""
        if self._runners:
            with self._door:
                self._door.wait_for(lambda: handle.ready or not self._runners, timeout=1)
            return
        with self._stepping:
            if not handle.ready:
                self.step()

    @property
    def stats(self) -> Stats:
        """A copy; without waiting for the step under way."""
        now = Stats(**vars(self._stats))
        now.ended = Counter(self._stats.ended)
        now.running, now.waiting = len(self._jobs), len(self._line)
        now.pages_held, now.pages_kept = self._pool.held, self._pool.kept
        return now

    def run(self, stop: threading.Event) -> None:
        """Makes steps until ``stop`` is set; waits while there is nothing to do. For a thread of its own."""
        with self._door:
            self._runners += 1
        try:
            while not stop.is_set():
                if not self.step():
                    with self._door:
                        self._door.wait_for(lambda: stop.is_set() or self._asked or len(self._line), timeout=0.2)
        finally:
            with self._door:
                self._runners -= 1
                self._door.notify_all()

    def wake(self) -> None:
        """Lets ``run`` look at its stop event now."""
        with self._door:
            self._door.notify_all()

    # -- a step ----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> bool:
        """Lets cancelled requests go, admits waiting ones, computes once, tells events. False: nothing to do."""
        with self._stepping:
            start = time.perf_counter()
            told = self._answer_asked()
            self._admit()
            parts = self._plan()
            if parts:
                self._compute(parts)
                self._stats.steps += 1
                self._stats.seconds += time.perf_counter() - start
            if parts or told:
                self._tell()
            return bool(parts)

    def _tell(self) -> None:
        if self.after_step is not None:
            self.after_step()
        if self._runners:
            with self._door:
                self._door.notify_all()

    def _answer_asked(self) -> bool:
        with self._door:
            asked, self._asked = self._asked, []
            waiting = [handle for handle, index in asked if index is None and self._line.remove(handle)]
        for handle in waiting:
            self._deliver_end(handle, "cancelled", "")
        jobs = {id(job.handle): job for job in self._jobs}
        for handle, index in asked:
            job = jobs.get(id(handle))
            if job is None or handle.finished:
                continue
            if index is None:
                self._end(job, "cancelled")
            else:
                job.request.strategy.stop(index)
        return bool(asked)

    def _admit(self) -> None:
        """The waiting requests whose turn it is, while there is room; a large one is not overtaken by small ones."""
        rows = sum(job.request.strategy.width for job in self._jobs)
        while True:
            with self._door:
                handle = self._line.first()
            if handle is None or rows + handle.request.strategy.width > self.config.max_batch:
                return
            job = admit(handle, self._pool)
            if job is None:
                return
            with self._door:
                self._line.remove(handle)
            self._jobs.append(job)
            rows += handle.request.strategy.width

    def _plan(self) -> list[Part]:
        parts = []
        for job in self._jobs:
            if not job.in_prompt:
                guessed = self._guess(job)
                for s in job.live:
                    parts.append(Part(job, s, s.ids[s.cached :] + guessed, 1 + len(guessed), prompt=False))
        return parts + self._plan_prompts([job for job in self._jobs if job.in_prompt])

    def _plan_prompts(self, jobs: list[Job]) -> list[Part]:
        """``prefill_tokens`` prompt tokens: the oldest request gets most, the others at least a page each. One whose
        next page an older one computes in this step waits, and takes it over in the next."""
        parts, size, left = list[Part](), self._pool.page_tokens, self.config.prefill_tokens
        busy = set[bytes]()
        for behind, job in zip(range(len(jobs) - 1, -1, -1), jobs, strict=True):
            if left <= 0:
                break
            job.adopt()
            root, prompt = job.live[0], job.request.prompt
            if not busy.isdisjoint(job.prefix[root.cached // size :][:1]):
                continue
            rest = len(prompt) - root.cached
            count = min(rest, max(left - behind * size, min(size, left)))
            if count < rest:  # up to the end of a page, where there is one
                end = (root.cached + count) // size * size
                count = end - root.cached if end > root.cached else count
            ids = prompt[root.cached : root.cached + count]
            parts.append(Part(job, root, ids, int(count == rest), prompt=True))
            busy.update(job.prefix[root.cached // size : -(-(root.cached + count) // size)])
            left -= count
        return parts

    def _guess(self, job: Job) -> list[int]:
        """Tokens that may follow, when the same words stood in the text before; only for a single sequence."""
        if not self.config.lookup or job.request.strategy.width != 1:
            return []
        ids = job.live[0].ids
        room = len(job.request.prompt) + job.request.max_tokens - len(ids)
        guessed = draft(ids, min(self.config.lookup, room))
        self._stats.guessed_tokens += len(guessed)
        return guessed

    def _compute(self, parts: list[Part]) -> None:
        """One forward pass. When it fails, each request is tried alone, and those that fail again end."""
        try:
            logits = self.backend.forward(self._batch(parts))
        except Exception as error:
            alone = [list(group) for _, group in groupby(parts, key=lambda part: id(part.job))]
            if len(alone) == 1:
                self._end(parts[0].job, "error", f"{type(error).__name__}: {error}")
            else:
                for group in alone:
                    self._compute(group)
            return
        self._use(parts, logits)

    def _batch(self, parts: list[Part]) -> Batch:
        for part in parts:
            part.job.make_room(part.sequence, len(part.ids), self.backend.copy_page)
        starts = np.cumsum([0, *(len(part.ids) for part in parts)], dtype=np.int32)
        tables = np.full((len(parts), max(len(part.sequence.pages) for part in parts)), -1, dtype=np.int32)
        for row, part in enumerate(parts):
            tables[row, : len(part.sequence.pages)] = part.sequence.pages
        wanted = [range(end - part.wanted, end) for part, end in zip(parts, starts[1:], strict=True)]
        return Batch(
            ids=np.array([token for part in parts for token in part.ids], dtype=np.int64),
            starts=starts,
            lengths=np.array([part.sequence.cached for part in parts], dtype=np.int32),
            tables=tables,
            wanted=np.array([row for rows in wanted for row in rows], dtype=np.int32),
            prompt=np.array([part.prompt for part in parts]),
        )

    # -- what the strategies say -----------------------------------------------------------------------------------

    def _use(self, parts: list[Part], logits: Tensor) -> None:
        """Hands each request its logits."""
        together: dict[type, list[tuple[Job, range]]] = {}
        row = 0
        for _, group in groupby(parts, key=lambda part: id(part.job)):
            own = list(group)
            job, count = own[0].job, sum(part.wanted for part in own)
            rows, row = range(row, row + count), row + count
            guesses = own[0].wanted > 1
            for part in own:
                done = 0 if guesses else len(part.ids)
                job.computed(part.sequence, done, part.prompt, self.config.prefix_reuse)
                self._stats.prompt_tokens += len(part.ids) * part.prompt
            if guesses:
                self._accept(own[0], logits[rows.start : rows.stop])
            elif count and hasattr(job.request.strategy, "advance_all"):  # a BatchStrategy
                together.setdefault(type(job.request.strategy), []).append((job, rows))
            elif count:
                self._advance(job, logits[rows.start : rows.stop])
        for kind, members in together.items():
            self._advance_all(kind, members, logits)

    def _advance(self, job: Job, logits: Tensor) -> Outcome | None:
        """One request goes on; None when it has ended."""
        try:
            outcome = job.request.strategy.advance(job.live, logits)
        except Exception as error:
            self._end(job, "error", str(error))
            return None
        return self._follow(job, outcome)

    def _advance_all(self, kind: Any, members: list[tuple[Job, range]], logits: Tensor) -> None:
        strategies = [job.request.strategy for job, _ in members]
        rows = [row for _, own in members for row in own]
        if len(rows) < len(logits):
            logits = logits[rows]
        try:
            outcomes = kind.advance_all(strategies, [job.live for job, _ in members], logits)
        except Exception as error:
            outcomes = [error] * len(members)
        for (job, _), outcome in zip(members, outcomes, strict=True):
            if isinstance(outcome, Outcome):
                self._follow(job, outcome)
            else:
                self._end(job, "error", str(outcome))

    def _follow(self, job: Job, outcome: Outcome) -> Outcome | None:
        self._stats.tokens += sum(event.token is not None for event in outcome.events)
        if outcome.done:
            self._end(job, None, events=outcome.events)
            return None
        try:
            job.apply(outcome)
        except RuntimeError as error:
            self._end(job, "error", str(error))
            return None
        if not job.handle.deliver(outcome.events, last=False):
            self._end(job, "cancelled")
            return None
        return outcome

    def _accept(self, part: Part, logits: Tensor) -> None:
        """Row by row, as without guesses, as long as the strategy takes the token that was guessed."""
        for row in range(len(part.ids)):
            part.job.computed(part.sequence, 1, prompt=False, publish=False)
            outcome = self._advance(part.job, logits[row : row + 1])
            if outcome is None or len(outcome.grow) != 1 or outcome.grow[0][0] is not part.sequence:
                return
            if row + 1 == len(part.ids) or outcome.grow[0][1] != part.ids[row + 1]:
                return
            self._stats.accepted_tokens += 1

    def _end(self, job: Job, finish: Finish | None, error: str = "", events: list[Event] | None = None) -> None:
        """The request has ended, by itself (None) or by us; its pages are free at once."""
        self._jobs.remove(job)
        self._stats.reused_tokens += job.reused
        self._stats.reused_prompts += job.reused > 0
        job.end(publish=self.config.prefix_reuse and finish != "error")
        if finish is None:
            self._stats.ended["done"] += 1
            job.handle.deliver(events or [], last=True)
        else:
            self._deliver_end(job.handle, finish, error)

    def _deliver_end(self, handle: Handle, finish: Finish, error: str) -> None:
        self._stats.ended[finish] += 1
        handle.deliver([Event(-1, finish=finish, error=error)], last=True)
