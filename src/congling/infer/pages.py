"""Memory of the cache in pages: who holds which, what is promised to whom, and which pages begin as a prompt does.

A page is free, held (by one sequence or several), or kept: held by nobody, but findable by its tokens until its place
is needed. Held and promised pages together are never more than there are: a request once admitted always goes on.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np


class Pool:
    """The pages of one backend. Not safe for threads: the engine's lock guards it."""

    def __init__(self, num_pages: int, page_tokens: int) -> None:
        self.num_pages, self.page_tokens = num_pages, page_tokens
        self.promised = 0  # pages that admitted requests may still take
        self._holders: dict[int, int] = {}  # page → sequences that hold it
        self._free: list[int] = []
        self._fresh = 0  # pages from here on were never used
        self._kept: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._index: dict[bytes, int] = {}  # key of the tokens up to a page's end → page
        self._keys: dict[int, tuple[bytes, bool]] = {}  # page → its key, and whether it is exact

    @property
    def held(self) -> int:
        """Pages that some sequence holds."""
        return len(self._holders)

    @property
    def kept(self) -> int:
        """Pages that nobody holds, but that can be found."""
        return len(self._kept)

    def reserve(self, count: int, shared: Sequence[int] = ()) -> "Lease | None":
        """Promises ``count`` pages beside ``shared`` ones (found in the index), which are held at once; None: no room.

        Only pages of ``shared`` that nobody holds yet cost something.
        """
        new = sum(page not in self._holders for page in shared)
        if self.held + self.promised + count + new > self.num_pages:
            return None
        self.promised += count
        lease = Lease(self, count)
        for page in shared:
            self.hold(page)
        return lease

    def hold(self, page: int) -> None:
        """One more sequence holds the page."""
        self._holders[page] = self._holders.get(page, 0) + 1
        self._kept.pop(page, None)

    def holders(self, page: int) -> int:
        return self._holders.get(page, 0)

    def take(self) -> int:
        """A page with one holder: a free one, else the kept one that was not used for the longest time."""
        if self._free:
            page = self._free.pop()
        elif self._fresh < self.num_pages:
            page, self._fresh = self._fresh, self._fresh + 1
        else:
            page, _ = self._kept.popitem(last=False)
            self._forget(page)
        self._holders[page] = 1
        return page

    def drop(self, page: int) -> bool:
        """One sequence less holds the page; true when it was the last. A page in the index is kept, others are free."""
        self._holders[page] -= 1
        if self._holders[page]:
            return False
        del self._holders[page]
        if page in self._keys:
            self._kept[page] = None
        else:
            self._free.append(page)
        return True

    def find(self, key: bytes, exact: bool) -> int | None:
        """The page of the tokens that ``key`` stands for; with ``exact`` only one that prompts alone have filled."""
        page = self._index.get(key)
        return None if page is None or (exact and not self._keys[page][1]) else page

    def is_exact(self, page: int) -> bool:
        return page in self._keys and self._keys[page][1]

    def publish(self, key: bytes, page: int, exact: bool) -> None:
        """From now on the page can be found. Of two with the same tokens an exact one stays, else the older one."""
        if page in self._keys:
            return
        other = self._index.get(key)
        if other is not None:
            if self._keys[other][1] or not exact:
                return
            self._forget(other)
            if other in self._kept:
                del self._kept[other]
                self._free.append(other)
        self._index[key] = page
        self._keys[page] = key, exact

    def _forget(self, page: int) -> None:
        key, _ = self._keys.pop(page)
        del self._index[key]


class Lease:
    """What one request may take: the pages it was promised, less those it holds."""

    def __init__(self, pool: Pool, left: int) -> None:
        self.pool, self.left = pool, left

    def take(self) -> int:
        """A page for this request. RuntimeError when it wants more than it was promised."""
        if not self.left:
            raise RuntimeError("the request grows beyond the memory that it asked for")
        page = self.pool.take()
        self._pay(1)
        return page

    def adopt(self, page: int) -> bool:
        """Holds a found page in place of one that would be taken; false when the promise does not cover it."""
        if not self.left:
            return False
        self.pool.hold(page)
        self._pay(1)
        return True

    def drop(self, page: int) -> None:
        """Gives a page back; what nobody holds any more may be taken again."""
        if self.pool.drop(page):
            self._pay(-1)

    def close(self) -> None:
        """The request has ended and holds nothing: its promise is void."""
        self._pay(self.left)

    def _pay(self, count: int) -> None:
        self.left -= count
        self.pool.promised -= count


def keys(ids: Sequence[int], page_tokens: int) -> Iterator[bytes]:
    """A key for each full page of ``ids``: a hash of all tokens up to its end, chained from page to page."""
    key = b""
    for start in range(0, len(ids) - page_tokens + 1, page_tokens):
        tokens = np.asarray(ids[start : start + page_tokens], dtype=np.int64)
        key = blake2b(key + tokens.tobytes(), digest_size=16).digest()
        yield key
