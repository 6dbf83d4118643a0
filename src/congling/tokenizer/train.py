"""The seed's way to a vocabulary (SEED §2): candidates vote in rounds of segmenting and counting the whole corpus.

1. Candidates: all character n-grams above a count (``candidates.py``). 2. Rounds: segment the corpus along the best
path, count the pieces used, keep those, until the set is stable. 3. Shrinking: drop the rarest down to the next size,
segment and count again, until the target. Score of a piece = ln(its count / the counts of all pieces of the same
length in characters).

Not followed: here the most frequent single characters, those that make up ``character_coverage`` of the text, are never
dropped, and a character without a piece costs byte tokens (in the seed it costs nothing, which breaks words apart).
The first set is cut to 64 times the target; the seed began with 5.7 million candidates for 65,544.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from congling import artifact
from congling.tokenizer.candidates import Grams
from congling.tokenizer.config import TokenizerConfig
from congling.tokenizer.kernels import Bytes, count_documents
from congling.tokenizer.passes import Corpus, hash_texts, parallel
from congling.tokenizer.trie import LOWEST_SCORE, SCALE, Ints, Longs
from congling.tokenizer.vocabulary import FIRST_PIECE, Vocabulary

_FIRST_SET = 64  # times the target
_BYTE_NUMBERS = np.arange(256, dtype=np.int32)  # tokens 0 … 255 are bytes, 256 + n the n-th living piece


@dataclass(frozen=True)
class State:
    """Between two rounds."""

    round: int  # rounds done
    shrinking: bool
    alive: NDArray[np.bool_]  # [nodes] the candidates that are pieces
    counts: Longs  # [nodes] how often each was used in the last round
    bytes_per_token: float  # of the last round

    @property
    def size(self) -> int:
        """Number of pieces."""
        return int(self.alive.sum())


class Trainer:
    """Holds the candidates; ``rounds`` goes from state to state, so that a caller can save each."""

    def __init__(self, grams: Grams, config: TokenizerConfig, corpus: Corpus, seed: int) -> None:
        self._grams, self._config, self._corpus, self._seed = grams, config, corpus, seed
        self.target = config.vocab_size - FIRST_PIECE
        self._protected = _protected(grams, config.character_coverage, self.target)

    def first_state(self) -> State:
        """The candidates, the most frequent 64 · target of them. Raises ValueError when they are too few."""
        self._check_size(len(self._grams))
        alive = np.ones(len(self._grams) + 1, bool)
        alive[0] = False
        return self._cut(State(0, False, alive, self._grams.count, 0.0), _FIRST_SET * self.target)

    def rounds(self, state: State) -> Iterator[State]:
        """Yields the state after each round, until the vocabulary has its size and the counts of that size."""
        done = state.shrinking and state.size == self.target
        while not done:
            before = state.size
            if state.shrinking:
                state = self._cut(state, max(self.target, int(before * self._config.shrink)))
            state = self._recount(state)
            self._check_size(state.size)
            stable = before - state.size <= self._config.stable_share * before
            if not state.shrinking and (stable or state.round >= self._config.max_rounds):
                state = State(state.round, True, state.alive, state.counts, state.bytes_per_token)
            done = state.shrinking and state.size == self.target
            yield state

    def vocabulary(self, state: State) -> Vocabulary:
        """The pieces, most counted first (ties: by code points)."""
        texts = self._grams.texts()
        nodes = np.flatnonzero(state.alive)
        counts, scores = state.counts[nodes].tolist(), self._scores(state).tolist()
        rows = sorted(
            (-count, texts[node], score) for node, count, score in zip(nodes.tolist(), counts, scores, strict=True)
        )
        return Vocabulary("congling", [r[1] for r in rows], [r[2] for r in rows], [-r[0] for r in rows])

    def pieces_by_length(self, state: State) -> dict[str, int]:
        """How many living pieces have one character, two, …"""
        lengths = np.bincount(self._grams.depth[state.alive])
        return {str(n): int(count) for n, count in enumerate(lengths) if n and count}

    def _recount(self, state: State) -> State:
        """Segments and counts; before the shrinking, which takes the rarest anyway, drops what was not used."""
        trie = self._grams.trie(state.alive, self._scores(state))
        sample = self._config.counting == "sample"

        def job(data: Bytes, offsets: Longs) -> tuple[Longs, int]:
            counts = np.zeros(256 + state.size, np.int64)
            keys = hash_texts(data, offsets, self._seed ^ state.round << 32) if sample else np.empty(0, np.uint64)
            alpha = self._config.sample_alpha
            count_documents(data, offsets, trie.cells, trie.table, _BYTE_NUMBERS, alpha, keys, counts)
            return counts, int(offsets[-1] - offsets[0])

        used, size = np.zeros(256 + state.size, np.int64), 0
        for counts, text_bytes in parallel(job, self._corpus, self._config.threads):
            used += counts
            size += text_bytes
        counts = np.zeros_like(state.counts)
        counts[state.alive] = used[256:]
        alive = state.alive if state.shrinking else state.alive & ((counts > 0) | self._protected)
        return State(state.round + 1, state.shrinking, alive, counts, size / max(int(used.sum()), 1))

    def _cut(self, state: State, size: int) -> State:
        """The protected characters and the most counted others, ``size`` in all; ties go by the order of the nodes,
        which is that of the characters' counts and code points."""
        nodes = np.flatnonzero(state.alive)
        order = np.lexsort((nodes, -state.counts[nodes], ~self._protected[nodes]))
        alive = np.zeros_like(state.alive)
        alive[nodes[order[:size]]] = True
        return State(state.round, state.shrinking, alive, state.counts, state.bytes_per_token)

    def _scores(self, state: State) -> Ints:
        """Scores of the living nodes, in units of 10⁻⁶ nats, rounded; one without use has that of a count of 1."""
        depth = self._grams.depth[state.alive]
        counts = np.maximum(state.counts[state.alive], 1)
        totals = np.zeros(self._config.max_piece_length + 1, np.int64)
        np.add.at(totals, depth, counts)
        units = np.rint(np.log(counts / totals[depth]) * SCALE)
        return np.clip(units, LOWEST_SCORE, 0).astype(np.int32)

    def _check_size(self, found: int) -> None:
        if found < self.target:
            raise ValueError(
                f"tokenizer.vocab_size = {self._config.vocab_size}: the corpus gives only {found} pieces; set "
                f"vocab_size to at most {found + FIRST_PIECE}, lower min_count and min_frequency, or give more text"
            )


def _protected(grams: Grams, coverage: float, target: int) -> NDArray[np.bool_]:
    """The most frequent characters that together make up ``coverage`` of the text, but at most half of the target."""
    single = grams.depth == 1  # nodes 1 … are the characters, most frequent first
    covered = np.cumsum(grams.count * single)
    protected = single & (covered - grams.count < coverage * grams.num_characters)
    protected[0] = False
    protected[1 + target // 2 :] = False
    return protected


def save_state(state: State, file: Path) -> None:
    """Writes a state durably."""
    with artifact.atomic_open(file) as out:
        np.savez(out, allow_pickle=False, **{name: np.asarray(value) for name, value in vars(state).items()})


def load_state(file: Path) -> State:
    """What ``save_state`` wrote."""
    with np.load(file, allow_pickle=False) as found:
        numbers = found["round"], found["shrinking"], found["bytes_per_token"]
        return State(int(numbers[0]), bool(numbers[1]), found["alive"], found["counts"], float(numbers[2]))
