"""The seed's way to a vocabulary (SEED §2): candidates vote in rounds of segmenting and counting the whole corpus.

1. Candidates: all character n-grams above a count. 2. Rounds: segment the corpus along the best path, count the
pieces used, keep those, until the set is stable. 3. Shrinking: drop the rarest down to the next size, segment and
count again, until the target. Single characters that cover ``character_coverage`` of the text are never dropped.

Score of a piece = ln(its count / the counts of all pieces of the same length in characters).
Not followed: the seed begins with 5.7 million candidates; here the first set is cut to 64 times the target.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from congling.tokenizer.candidates import Corpus, Grams, find_candidates
from congling.tokenizer.config import TokenizerConfig
from congling.tokenizer.kernels import SCALE, Bytes, Longs, count_documents
from congling.tokenizer.trie import Trie, double_array
from congling.tokenizer.vocabulary import FIRST_PIECE, Vocabulary

_FIRST_SET = 64  # times the target


@dataclass
class State:
    """Between two rounds: which nodes of the candidates are pieces, and their last counts."""

    round: int  # rounds done
    phase: int  # 0: rounds until stable; 1: shrinking
    alive: NDArray[np.bool_]  # [nodes]
    counts: Longs  # [nodes]
    stable: bool = False


class Trainer:
    """Holds the candidates; ``rounds`` goes from state to state, so that a caller can save each."""

    def __init__(self, grams: Grams, num_characters: int, config: TokenizerConfig, corpus: Corpus, seed: int) -> None:
        self._grams, self._config, self._corpus, self._seed = grams, config, corpus, seed
        self.target = config.vocab_size - FIRST_PIECE
        self._protected = _protected(grams, num_characters, config.character_coverage, self.target)
        self._table = np.zeros(0x110000, np.int32)
        self._table[grams.characters] = np.arange(1, len(grams.characters) + 1)

    @classmethod
    def start(cls, corpus: Corpus, config: TokenizerConfig, seed: int) -> "Trainer":
        """Finds the candidates. Raises ValueError when the corpus cannot give enough pieces."""
        grams, total = find_candidates(corpus, config.max_piece_length, config.min_frequency, config.min_count)
        return cls(grams, total, config, corpus, seed)

    def first_state(self) -> State:
        """All candidates alive, but no more than 64 times the target."""
        if len(self._grams.parent) - 1 < self.target:
            raise self._too_small(len(self._grams.parent) - 1)
        state = State(0, 0, np.ones(len(self._grams.parent), bool), self._grams.count.copy())
        state.alive[0] = False
        return self._cut(state, min(_FIRST_SET * self.target, int(state.alive.sum())))

    def rounds(self, state: State) -> Iterator[tuple[State, float]]:
        """Yields (state, bytes a token) after each round, until the vocabulary has its size."""
        while True:
            before = int(state.alive.sum())
            if state.phase == 1:
                if before == self.target and state.stable:
                    return
                if before > self.target:
                    state = self._cut(state, max(self.target, int(before * self._config.shrink)))
            state, bytes_per_token = self._recount(state)
            after = int(state.alive.sum())
            if after < self.target:
                raise self._too_small(after)
            settled = before - after <= self._config.stable_share * before or state.round >= self._config.max_rounds
            state.stable = after == self.target and state.phase == 1
            if state.phase == 0 and settled:
                state.phase = 1
            yield state, bytes_per_token

    def _recount(self, state: State) -> tuple[State, float]:
        """Segments and counts; keeps what was used, unless that would leave too few."""
        nodes = np.flatnonzero(state.alive)
        trie, numbers = self._trie(state)
        used = np.zeros(len(nodes), np.int64)
        num_bytes, text_bytes = 0, 0
        for counts, byte_tokens, size in self._count(trie, len(nodes), state.round):
            used, num_bytes, text_bytes = used + counts, num_bytes + byte_tokens, text_bytes + size
        del numbers
        counts = np.zeros_like(state.counts)
        counts[nodes] = used
        alive = state.alive & ((counts > 0) | self._protected)
        if state.phase == 1 and alive.sum() < self.target:
            alive = state.alive  # at the end the size counts: an unused piece stays, as the rarest
        return State(state.round + 1, state.phase, alive, counts), text_bytes / max(int(used.sum()) + num_bytes, 1)

    def _cut(self, state: State, size: int) -> State:
        """The protected characters and the most counted others, ``size`` in all; ties by n-gram number."""
        nodes = np.flatnonzero(state.alive)
        order = np.lexsort((nodes, -state.counts[nodes], ~self._protected[nodes]))
        alive = np.zeros_like(state.alive)
        alive[nodes[order[:size]]] = True
        return State(state.round, state.phase, alive, state.counts)

    def scores(self, state: State) -> NDArray[np.int32]:
        """ln(count / counts of the same length) of the living nodes, in units of 2⁻²⁰ nats, rounded."""
        nodes = np.flatnonzero(state.alive)
        counts = np.maximum(state.counts[nodes], 1)
        totals = np.bincount(self._grams.depth[nodes], weights=counts)
        logs = np.log(counts / totals[self._grams.depth[nodes]])
        return np.minimum(np.rint(logs * SCALE), -1).astype(np.int32)

    def _trie(self, state: State) -> tuple[Trie, Longs]:
        """Double array of the living nodes (and of those on the way to them)."""
        g = self._grams
        nodes = np.flatnonzero(state.alive)
        needed = state.alive.copy()
        needed[0] = True
        for depth in range(int(g.depth.max()), 1, -1):
            at = np.flatnonzero(needed & (g.depth == depth))
            needed[g.parent[at]] = True
        numbers = np.cumsum(needed) - 1  # parents come before children, so they still do
        terminal = np.full(int(needed.sum()), -1, np.int32)
        terminal[numbers[nodes]] = np.arange(len(nodes))
        parent = numbers[g.parent[needed]].astype(np.int32)
        return Trie(double_array(parent, g.code[needed], terminal, self.scores(state)), self._table), numbers

    def _count(self, trie: Trie, size: int, number: int) -> Iterator[tuple[Longs, int, int]]:
        """(counts, byte tokens, bytes) of each batch; sums do not depend on order or threads."""
        alpha = self._config.sample_alpha if self._config.counting == "sample" else 0.0

        def job(data: Bytes, offsets: Longs, first: int) -> tuple[Longs, int, int]:
            counts = np.zeros(size, np.int64)
            seed = self._seed * 1_000_003 + number
            byte_tokens = count_documents(data, offsets, trie.cells, trie.table, counts, alpha, seed, first)
            return counts, byte_tokens, int(offsets[-1] - offsets[0])

        first = 0
        with ThreadPoolExecutor(self._config.threads) as pool:
            running: list[Future[tuple[Longs, int, int]]] = []
            for data, offsets in self._corpus():
                running.append(pool.submit(job, data, offsets, first))
                first += len(offsets) - 1
                if len(running) > self._config.threads:
                    yield running.pop(0).result()
            for future in running:
                yield future.result()

    def vocabulary(self, state: State) -> Vocabulary:
        """The pieces, most counted first (ties: by code points)."""
        texts = self._grams.texts()
        nodes = np.flatnonzero(state.alive)
        rows = [
            (-int(count), texts[node - 1], int(score))
            for node, count, score in zip(nodes, state.counts[nodes], self.scores(state), strict=True)
        ]
        rows.sort()
        ids = list(range(FIRST_PIECE, FIRST_PIECE + len(rows)))
        return Vocabulary("congling", [r[1] for r in rows], ids, [r[2] for r in rows], [-r[0] for r in rows])

    def pieces_by_length(self, state: State) -> dict[str, int]:
        """How many living pieces have one character, two, …"""
        lengths = np.bincount(self._grams.depth[state.alive])
        return {str(n): int(count) for n, count in enumerate(lengths) if n and count}

    def _too_small(self, found: int) -> ValueError:
        return ValueError(
            f"tokenizer.vocab_size = {self._config.vocab_size}: the corpus gives only {found} pieces "
            f"({found + FIRST_PIECE} ids); set vocab_size to at most that, lower min_count, or give more text"
        )


def _protected(grams: Grams, num_characters: int, coverage: float, target: int) -> NDArray[np.bool_]:
    """The most frequent single characters that together make up ``coverage`` of the text; at most 3/4 of the target."""
    single = grams.depth == 1  # nodes 1 … are the characters, most frequent first
    share = np.cumsum(grams.count * single) / max(num_characters, 1)
    before = np.concatenate([[0.0], share[:-1]])
    protected = single & (before < coverage)
    protected[0] = False
    protected[min(len(protected), 1 + 3 * target // 4) :] = False
    return protected


def save_state(state: State, file: Path) -> None:
    """Writes a state durably."""
    from congling.artifact import atomic_open

    with atomic_open(file) as out:
        np.savez(out, alive=state.alive, counts=state.counts, numbers=[state.round, state.phase, state.stable])


def load_state(file: Path) -> State:
    """What ``save_state`` wrote."""
    with np.load(file, allow_pickle=False) as found:
        number, phase, stable = found["numbers"].tolist()
        return State(int(number), int(phase), found["alive"], found["counts"], bool(stable))
