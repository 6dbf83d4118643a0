"""The seed's way to a vocabulary (SEED §2): candidates vote in rounds of segmenting and counting the whole corpus.

1. Candidates: all character n-grams above a count (``candidates.py``). 2. Rounds: segment the corpus along the best
path, count the pieces used, keep those, until the set is stable. 3. Shrinking: drop the rarest down to the next size,
segment and count again, until the target. Score of a piece = ln(its count / the counts of all pieces of the same
length in characters).

Not followed: here the most frequent single characters, those that make up ``character_coverage`` of the text, are never
dropped, and a character without a piece costs byte tokens (in the seed it costs nothing, which breaks words apart).
The first set is cut to 64 times the target; the seed began with 5.7 million candidates for 65,544.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from congling import artifact
from congling.tokenizer.candidates import Grams
from congling.tokenizer.codec import count_documents, score_without_itself
from congling.tokenizer.config import TokenizerConfig
from congling.tokenizer.kernels import Bytes
from congling.tokenizer.passes import Corpus, Sum, hash_texts
from congling.tokenizer.trie import BYTE_BITS, FIRST_CODE, LOWEST_SCORE, SCALE, Arrays, Longs
from congling.tokenizer.vocabulary import FIRST_PIECE, Vocabulary

_FIRST_SET = 64  # times the target


@dataclass(frozen=True)
class State:
    """Between two rounds."""

    round: int  # rounds done
    shrinking: bool
    alive: NDArray[np.bool_]  # [nodes] the candidates that are pieces
    counts: Longs  # [nodes] how often each was used in the last round
    worth: NDArray[np.float64]  # [nodes] the least of it is dropped first
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
        self._protected = _protected(grams, config.character_coverage, self.target, config.always)

    def first_state(self) -> State:
        """The candidates, the most frequent 64 · target of them. Raises ValueError when they are too few."""
        if len(self._grams) < self.target:
            found = int((self._grams.count > 0).sum())  # without those that a small vocabulary need not have
            raise ValueError(
                f"tokenizer.vocab_size = {self._config.vocab_size}: the corpus gives only {found} pieces; set "
                f"vocab_size to at most {found + FIRST_PIECE}, lower min_count and min_frequency, or give more text"
            )
        alive = np.ones(len(self._grams) + 1, bool)
        alive[0] = False
        return self._cut(
            State(0, False, alive, self._grams.count, self._grams.count.astype(np.float64), 0.0),
            _FIRST_SET * self.target,
        )

    def rounds(self, state: State) -> Iterator[State]:
        """Yields the state after each round, until the vocabulary has its size and the counts of that size."""
        done = state.shrinking and state.size == self.target
        while not done:
            before = state
            if state.shrinking:
                state = self._cut(state, max(self.target, int(state.size * self._config.shrink)))
            state = self._recount(state)
            stable = before.size - state.size <= self._config.stable_share * before.size
            if not state.shrinking and (stable or state.round >= self._config.max_rounds):
                state = replace(state, shrinking=True)
            if state.size < self.target:  # some that are not used must stay
                state = replace(state, shrinking=True, alive=before.alive)
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
        scores = self._scores(state)
        trie, slots = self._grams.trie(state.alive, scores)
        seed = self._seed ^ state.round << 32 if self._config.counting == "sample" else None
        uses = Sum(len(trie.arrays[0]) + 1)
        self._corpus.run(_count_uses, (trie.arrays, self._config.sample_alpha, seed), uses.add)
        used, size = uses.total[:-1], int(uses.total[-1])
        tokens = trie.arrays[2].astype(np.int64)
        num_tokens = int(np.where(tokens >> BYTE_BITS, used, used * tokens).sum())  # a character without a piece: bytes
        counts = np.zeros_like(state.counts)
        counts[state.alive] = used[slots]
        alive = state.alive
        if not state.shrinking:
            alive = alive & ((counts > 0) | self._protected)
            alive |= self._best_with(np.where(alive, 1.0, 0.0)) > 0
        worth = counts.astype(np.float64)
        if self._config.prune == "loss":
            worth[state.alive] *= (scores - self._without_itself(state.alive, trie.arrays)) / SCALE
        return State(state.round + 1, state.shrinking, alive, counts, worth, size / max(num_tokens, 1))

    def _without_itself(self, alive: NDArray[np.bool_], arrays: Arrays) -> Longs:
        """For each living node the best score of its text in other pieces."""
        texts = [t.encode("utf-8", "surrogatepass") for t in compress(self._grams.texts(), alive)]
        offsets = np.cumsum([0, *map(len, texts)])
        return score_without_itself(np.frombuffer(b"".join(texts), np.uint8), offsets, arrays)

    def _cut(self, state: State, size: int) -> State:
        """The protected characters and the worthiest others, ``size`` in all. A character is worth what any piece with
        it is, so every character in a piece has a piece of its own. Ties go by the counts of the candidates, then by
        the order of the nodes, which is that of the characters' counts and code points."""
        worth = np.maximum(state.worth, self._best_with(np.where(state.alive, state.worth, 0.0)))
        nodes = np.flatnonzero(state.alive)
        order = np.lexsort((nodes, -self._grams.count[nodes], -worth[nodes], ~self._protected[nodes]))
        alive = np.zeros_like(state.alive)
        alive[nodes[order[:size]]] = True
        return replace(state, alive=alive)

    def _best_with(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each character that is a node the largest of ``values`` [nodes, ≥ 0] of all n-grams with it; else 0."""
        grams, best = self._grams, values.copy()
        for depth in range(int(grams.depth.max()), 1, -1):  # an n-gram contains its parent, which lacks its first
            nodes = np.flatnonzero(grams.depth == depth)
            np.maximum.at(best, grams.parent[nodes], best[nodes])
        by_code = np.zeros(FIRST_CODE + len(grams.characters))
        np.maximum.at(by_code, grams.code[1:], best[1:])
        return np.where(grams.depth == 1, by_code[grams.code], 0.0)

    def _scores(self, state: State) -> Longs:
        """Scores of the living nodes, in units of 10⁻⁶ nats, rounded; one without use has that of a count of 1."""
        depth = self._grams.depth[state.alive]
        counts = np.maximum(state.counts[state.alive], 1)
        group = depth if self._config.score == "length" else np.zeros_like(depth)
        totals = np.zeros(int(depth.max()) + 1, np.int64)
        np.add.at(totals, group, counts)
        units = np.rint((np.log(counts / totals[group]) - self._config.token_penalty) * SCALE)
        return np.clip(units, LOWEST_SCORE, 0).astype(np.int64)


def _count_uses(data: Bytes, offsets: Longs, arrays: Arrays, alpha: float, seed: int | None) -> Longs:
    """How often the tokens of each slot are used, and last the bytes of the text; seed: of sampled paths."""
    uses = np.zeros(len(arrays[0]) + 1, np.int64)
    keys = np.empty(0, np.uint64) if seed is None else hash_texts(data, offsets, seed)
    count_documents(data, offsets, arrays, alpha, keys, uses)
    uses[-1] = offsets[-1] - offsets[0]
    return uses


def _protected(grams: Grams, coverage: float, target: int, always: Sequence[int]) -> NDArray[np.bool_]:
    """The most frequent characters that together make up ``coverage`` of the text, but at most half of the target; and
    those of ``always``."""
    single = grams.depth == 1  # nodes 1 … are the characters, most frequent first
    covered = np.cumsum(grams.count * single)
    protected = single & (covered - grams.count < coverage * grams.num_characters)
    protected[0] = False
    protected[1 + target // 2 :] = False
    protected[1 : 1 + len(grams.characters)] |= np.isin(grams.characters, always)
    return protected


def save_state(state: State, file: Path) -> None:
    """Writes a state durably."""
    with artifact.atomic_open(file) as out:
        np.savez(out, allow_pickle=False, **{name: np.asarray(value) for name, value in vars(state).items()})


def load_state(file: Path) -> State:
    """What ``save_state`` wrote."""
    with np.load(file, allow_pickle=False) as found:
        numbers = int(found["round"]), bool(found["shrinking"])
        return State(*numbers, found["alive"], found["counts"], found["worth"], float(found["bytes_per_token"]))
