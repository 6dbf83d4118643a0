"""An admitted request: its sequences, their pages, and what the strategy does with them. Used by the engine alone."""

from collections.abc import Callable

from congling.infer.pages import Lease, Pool, keys
from congling.infer.request import Handle, Request
from congling.infer.strategy import Outcome, Sequence


class Job:
    """State of one request between admission and end."""

    def __init__(self, handle: Handle, lease: Lease, shared: list[int]) -> None:
        self.handle, self.request, self.lease = handle, handle.request, lease
        self.pool = lease.pool
        self.prefix = handle.prefix
        root = Sequence(list(self.request.prompt))
        self.live, self.held = [root], list[Sequence]()  # that grow; that only wait
        for page in shared:
            self._append(root, page)
        self.reused = root.cached  # tokens that needed no computing

    @property
    def in_prompt(self) -> bool:
        """Whether the prompt has not been computed yet."""
        return self.live[0].cached < len(self.request.prompt) if self.live else False

    def adopt(self) -> None:
        """Takes over pages of the prompt that another request has made since."""
        root, size = self.live[0], self.pool.page_tokens
        while root.cached % size == 0 and len(root.pages) == root.cached // size < len(self.prefix):
            page = self.pool.find(self.prefix[len(root.pages)], self.request.exact)
            if page is None or not self.lease.adopt(page):
                return
            self._append(root, page)
            self.reused += size

    def make_room(self, sequence: Sequence, count: int, copy_page: Callable[[int, int], None]) -> None:
        """Pages for ``count`` more tokens of the sequence; a shared page that would be written is copied first."""
        size = self.pool.page_tokens
        first = sequence.cached // size
        if first < len(sequence.pages) and self.pool.holders(sequence.pages[first]) > 1:
            self._copy(sequence, first, copy_page)
        while len(sequence.pages) * size < sequence.cached + count:
            sequence.pages.append(self.lease.take())

    def computed(self, sequence: Sequence, count: int, prompt: bool, publish: bool) -> None:
        """``count`` more tokens are in pages. Full pages of a prompt can be found from now on."""
        size = self.pool.page_tokens
        before, sequence.cached = sequence.cached // size, sequence.cached + count
        if not prompt:
            return
        if sequence.exact_pages == before:
            sequence.exact_pages = sequence.cached // size
        if publish:
            for number in range(before, min(sequence.cached // size, len(self.prefix))):
                self.pool.publish(self.prefix[number], sequence.pages[number], number < sequence.exact_pages)

    def apply(self, outcome: Outcome) -> None:
        """Lets the sequences grow. RuntimeError for a strategy that goes beyond what it said."""
        before, held = [*self.live, *self.held], {id(s) for s in outcome.hold}
        known, taken = {id(s) for s in before}, set[int]()
        children = []
        for parent, _ in outcome.grow:
            if id(parent) not in known:
                raise RuntimeError("the strategy grows a sequence that has ended")
            children.append(self._fork(parent) if id(parent) in held | taken else parent)
            taken.add(id(parent))
        self.live, self.held = children, [s for s in before if id(s) in held]
        for child, (_, token) in zip(children, outcome.grow, strict=True):
            child.ids.append(token)  # after all forks
        for sequence in before:
            if id(sequence) not in held | taken:
                self._release(sequence)
        self._check()

    def end(self, publish: bool) -> None:
        """Frees everything. With ``publish``, full pages can be found by the next turn of a conversation."""
        for sequence in (*self.live, *self.held):
            if publish:
                self._publish(sequence)
            self._release(sequence)
        self.live, self.held = [], []
        self.lease.close()

    def _check(self) -> None:
        request = self.request
        if len(self.live) + len(self.held) > request.strategy.width:
            raise RuntimeError(f"the strategy has more than the {request.strategy.width} sequences that it asked for")
        longest = len(request.prompt) + request.max_tokens + request.strategy.extra_tokens
        if any(len(s.ids) > longest for s in self.live):
            raise RuntimeError(f"the strategy grows a sequence beyond {longest} tokens")
        if not self.live:
            raise RuntimeError("the strategy lets nothing grow, and has not ended")

    def _copy(self, sequence: Sequence, number: int, copy_page: Callable[[int, int], None]) -> None:
        source, target = sequence.pages[number], self.lease.take()
        try:
            copy_page(source, target)
        except BaseException:
            self.lease.drop(target)
            raise
        sequence.pages[number] = target
        self.lease.drop(source)

    def _append(self, root: Sequence, page: int) -> None:
        if root.exact_pages == len(root.pages) and self.pool.is_exact(page):
            root.exact_pages += 1
        root.pages.append(page)
        root.cached += self.pool.page_tokens

    def _fork(self, sequence: Sequence) -> Sequence:
        twin = sequence.fork()
        for page in twin.pages:
            self.pool.hold(page)
        return twin

    def _publish(self, sequence: Sequence) -> None:
        """At the end only: until then a page that others might hold is not this request's to give away."""
        full = sequence.ids[: sequence.cached]
        for number, key in enumerate(keys(full, self.pool.page_tokens)):
            self.pool.publish(key, sequence.pages[number], number < sequence.exact_pages)

    def _release(self, sequence: Sequence) -> None:
        for page in reversed(sequence.pages):  # the last page becomes the oldest: chains are forgotten from their end
            self.lease.drop(page)
        sequence.pages = []


def worst_case(request: Request, page_tokens: int) -> int:
    """Most pages that the request may hold at once: the prompt's full ones once, all others for each sequence."""
    longest = len(request.prompt) + request.max_tokens + request.strategy.extra_tokens
    shared = len(request.prompt) // page_tokens
    return shared + request.strategy.width * (-(-longest // page_tokens) - shared)


def admit(handle: Handle, pool: Pool) -> Job | None:
    """The request with memory for its worst case, and the pages of its prompt that are there already; None: no room."""
    shared = []
    for key in handle.prefix:
        page = pool.find(key, handle.request.exact)
        if page is None:
            break
        shared.append(page)
    lease = pool.reserve(worst_case(handle.request, pool.page_tokens) - len(shared), shared)
    return None if lease is None else Job(handle, lease, shared)
