"""What a tokenizer does with a text, for eyes."""

from collections.abc import Mapping

from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.trie import BYTE_SCORE, SCALE
from congling.tokenizer.vocabulary import escape

_BYTE_NATS = BYTE_SCORE / SCALE


def inspect(tokenizer: Tokenizer, text: str) -> list[str]:
    """A line a token: id, score in nats, margin, piece; then the number of tokens and the bytes a token.

    margin: by how many nats the best other segmentation that does without this token is worse ('-': there is none, or
    it is a vocabulary of the seed's kind, whose path is not always the best).
    """
    vocabulary = tokenizer.vocabulary
    scores = dict(zip(vocabulary.pieces, vocabulary.nats, strict=True))
    ids = tokenizer.encode(text)
    margins = {} if vocabulary.kind == "seed" else _margins(text, scores)
    rows, at, number_of_bytes = [], 0, 0
    for number in ids:
        piece = tokenizer.piece(number)
        if number >= vocabulary.first_id:
            shown = piece.decode()
            margin = margins.get((at, at + len(shown)))
            rows.append(_row(number, scores[shown], margin, escape(shown)))
            at += len(shown)
        else:
            rows.append(_row(number, _BYTE_NATS, None, f"<0x{piece.hex().upper()}>"))
            number_of_bytes += 1
            at = len(b"".join(map(tokenizer.piece, ids[: len(rows)])).decode("utf-8", "ignore"))
    return [*rows, f"{len(ids)} tokens, {len(text.encode()) / max(len(ids), 1):.2f} bytes a token"]


def _row(number: int, score: float, margin: float | None, piece: str) -> str:
    return f"{number:>6}  {score:>8.3f}  {'-' if margin is None else f'{margin:.3f}':>7}  {piece}"


def _margins(text: str, scores: Mapping[str, float]) -> dict[tuple[int, int], float]:
    """For each token (begin, end) on the best path: the best score of all, less the best of a path without it.

    Every path has one token over each character, so a path without this one has another over its first character.
    """
    longest = max(map(len, scores), default=1)
    edges = {}
    for begin in range(len(text)):
        for end in range(begin + 1, min(begin + longest, len(text)) + 1):
            score = scores.get(text[begin:end])
            if score is None and end == begin + 1:
                score = _BYTE_NATS * len(text[begin].encode("utf-8", "surrogatepass"))
            if score is not None:
                edges[begin, end] = score
    before, after = [0.0] + [-float("inf")] * len(text), [-float("inf")] * len(text) + [0.0]
    for (begin, end), score in sorted(edges.items(), key=lambda edge: edge[0]):
        before[end] = max(before[end], before[begin] + score)
    for (begin, end), score in sorted(edges.items(), reverse=True):
        after[begin] = max(after[begin], score + after[end])
    through = {edge: before[edge[0]] + score + after[edge[1]] for edge, score in edges.items()}
    over: list[list[tuple[int, int]]] = [[] for _ in text]
    for edge in edges:
        for character in range(*edge):
            over[character].append(edge)
    best = after[0] if text else 0.0
    others = {edge: [through[o] for o in over[edge[0]] if o != edge] for edge in edges}
    return {edge: best - max(values) for edge, values in others.items() if values}
