"""What a tokenizer does with a text, and what its vocabulary holds, for eyes."""

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from congling.corpus.readers import read_documents
from congling.reporter import read_metrics
from congling.tokenizer.characters import HAN, kinds_of
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.trie import BYTE_SCORE, SCALE, utf8_sizes
from congling.tokenizer.vocabulary import Vocabulary, escape

Span = tuple[int, int]  # characters of a text: begin, end
_ENDS = re.compile(
    r"(?<=[。！？!?；])(?![”’」』）。！？!?；])|(?<=[。！？!?；][”’」』）])|(?<=[.;!?] )"
)  # of sentences


@dataclass(frozen=True)
class Token:
    """A token of a text. raw: its bytes. text: its piece, '' for a byte token. begin: its first character in the text.

    nats: its score, None where the path rule gives none. count: of the vocabulary file. margin: by how many nats the
    best other segmentation that does without this token is worse (None: there is none, or it is not known).
    """

    id: int
    raw: bytes
    text: str
    begin: int
    nats: float | None
    count: int
    margin: float | None


@dataclass(frozen=True)
class Segmentation:
    """One way to cut a text. nats: the sum of its scores; margin: how far that is below the best."""

    tokens: Sequence[Token]
    nats: float
    margin: float


def inspect(tokenizer: Tokenizer, text: str) -> list[str]:
    """A line a token: id, score in nats, margin, piece; then the number of tokens and the bytes a token.

    margin: by how many nats the best other segmentation that does without this token is worse ('-': there is none, or
    it is a vocabulary of the seed's kind, whose path is not always the best).
    """
    tokens = paths(tokenizer, text, 1)[0].tokens
    rows = []
    for token in tokens:
        score, margin = ("-" if v is None else f"{v:.3f}" for v in (token.nats, token.margin))
        piece = escape(token.text) or f"<0x{token.raw.hex().upper()}>"
        rows.append(f"{token.id:>6}  {score:>8}  {margin:>7}  {piece}")
    size = len(text.encode("utf-8", "surrogatepass"))
    return [*rows, f"{len(tokens)} tokens, {size / max(len(tokens), 1):.2f} bytes a token"]


# -- segmentations -------------------------------------------------------------------------------------------------


def paths(tokenizer: Tokenizer, text: str, best: int = 5) -> list[Segmentation]:
    """The ``best`` segmentations of largest score sum, in order; the first is that of ``encode``, with margins.

    Of sums that tie, the one whose last token is longer comes first, then the order of what is before it, as in the
    kernels. A vocabulary of the seed's kind does not choose by the sum, so there it is the path taken alone.
    Plain Python, for texts of some hundred characters.
    """
    vocabulary = tokenizer.vocabulary
    numbers = {piece: n for n, piece in enumerate(vocabulary.pieces)}
    if vocabulary.kind == "seed":
        tokens = list(_taken(tokenizer, text, numbers))
        return [Segmentation(tokens, sum(t.nats or 0.0 for t in tokens), 0.0)]
    edges = _edges(text, {piece: int(vocabulary.scores[n]) for piece, n in numbers.items()})
    ranked = _rank(len(text), edges, best)
    margins = _margins(len(text), edges)
    top = ranked[0][0]
    return [
        Segmentation(list(_tokens(tokenizer, text, spans, numbers, {} if n else margins)), s / SCALE, (top - s) / SCALE)
        for n, (s, spans) in enumerate(ranked)
    ]


def parts(text: str, most: int = 300) -> list[str]:
    """A text in parts of at most ``most`` characters, cut behind lines, else sentences, else anywhere; '' has none."""
    found: list[str] = []
    for line in text.splitlines(keepends=True) if len(text) > most else [text] * bool(text):
        now = ""
        for sentence in _ENDS.split(line) if len(line) > most else [line]:
            if len(now) + len(sentence) > most:
                found.append(now)
                now = ""
            for at in range(0, len(sentence) - most, most):
                found.append(sentence[at : at + most])
            now += sentence[(len(sentence) - 1) // most * most :]
        found.append(now)
    return [part for part in found if part]


def _edges(text: str, scores: Mapping[str, int]) -> dict[Span, int]:
    """Every token that may stand in the text and its score (byte tokens of one character together), by begin, end."""
    longest = max(map(len, scores), default=1)
    edges = {}
    for begin in range(len(text)):
        for end in range(begin + 1, min(begin + longest, len(text)) + 1):
            score = scores.get(text[begin:end])
            if score is None and end == begin + 1:
                score = BYTE_SCORE * len(_bytes(text[begin]))
            if score is not None:
                edges[begin, end] = score
    return edges


def _rank(length: int, edges: Mapping[Span, int], best: int) -> list[tuple[int, list[Span]]]:
    """(score, spans) of the best paths: Viterbi with so many paths a position, each by (−score, begin, its rank)."""
    into: list[list[Span]] = [[] for _ in range(length + 1)]
    for edge in edges:
        into[edge[1]].append(edge)
    kept = [[(0, 0, 0)]]
    for position in range(1, length + 1):
        ways = [
            (cost - edges[edge], edge[0], rank)
            for edge in into[position]
            for rank, (cost, _, _) in enumerate(kept[edge[0]])
        ]
        kept.append(heapq.nsmallest(best, ways))
    found = []
    for rank, (cost, _, _) in enumerate(kept[length]):
        spans, at = [], length
        while at:
            _, begin, rank = kept[at][rank]
            spans.append((begin, at))
            at = begin
        found.append((-cost, spans[::-1]))
    return found


def _margins(length: int, edges: Mapping[Span, int]) -> dict[Span, float]:
    """For each token on the best path: the best score of all, less the best of a path without it, in nats.

    Every path has one token over each character, so a path without this one has another over its first character.
    """
    low = BYTE_SCORE * 4 * (length + 1)
    before, after = [0] + [low] * length, [low] * length + [0]
    for (begin, end), score in sorted(edges.items()):
        before[end] = max(before[end], before[begin] + score)
    for (begin, end), score in sorted(edges.items(), reverse=True):
        after[begin] = max(after[begin], score + after[end])
    through = {edge: before[edge[0]] + score + after[edge[1]] for edge, score in edges.items()}
    over: list[list[Span]] = [[] for _ in range(length)]
    for edge in edges:
        for character in range(*edge):
            over[character].append(edge)
    others = {edge: [through[o] for o in over[edge[0]] if o != edge] for edge in edges}
    return {edge: (after[0] - max(values)) / SCALE for edge, values in others.items() if values}


def _tokens(
    tokenizer: Tokenizer, text: str, spans: Sequence[Span], numbers: Mapping[str, int], margins: Mapping[Span, float]
) -> Iterator[Token]:
    v = tokenizer.vocabulary
    for begin, end in spans:
        piece = text[begin:end]
        raw, n = _bytes(piece), numbers.get(piece)
        if n is not None:
            yield Token(v.first_id + n, raw, piece, begin, v.nats[n], v.counts[n], margins.get((begin, end)))
            continue
        for number, byte in zip(tokenizer.encode(raw), raw, strict=True):
            yield Token(number, bytes([byte]), "", begin, BYTE_SCORE / SCALE, 0, None)


def _taken(tokenizer: Tokenizer, text: str, numbers: Mapping[str, int]) -> Iterator[Token]:
    """The tokens of ``encode``, in a vocabulary of the seed's kind."""
    v, at = tokenizer.vocabulary, 0  # at: bytes so far
    starts = np.cumsum([0, *(len(_bytes(c)) for c in text)])
    for number in tokenizer.encode(text):
        raw = tokenizer.piece(number)
        begin = int(np.searchsorted(starts, at, "right")) - 1
        n = number - v.first_id
        known = n >= 0
        piece = v.pieces[n] if known else ""
        yield Token(number, raw, piece, begin, v.nats[n] if known else None, v.counts[n] if known else 0, None)
        at += len(raw)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# -- the vocabulary ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """How a set of ``total`` characters is covered: ``own`` have a piece, others stand ``inside`` longer ones alone,
    and the ``missing`` are bytes. total 0: the set is not known here."""

    name: str
    total: int
    own: int = 0
    inside: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Counted:
    """A piece of the vocabulary file."""

    count: int
    id: int
    piece: str


@dataclass(frozen=True)
class Usage:
    """The most and the least counted of the ``pieces`` pieces of ``length`` characters (0: of all)."""

    length: int
    pieces: int
    most: Sequence[Counted]
    least: Sequence[Counted]


def character_sets() -> dict[str, str]:
    """Named sets of characters: gb2312_1 and gb2312_2 (3,755 and 3,008), common (the 8,105 of the 通用规范汉字表, 2013;
    '' without the package ``pypinyin-dict``, whose Unihan field kTGHZ2013 lists them), ascii (printable), cjk (the
    basic block U+4E00 … U+9FFF)."""

    def rows(first: int, last: int) -> str:
        codes = (bytes([0xA0 + row, 0xA0 + cell]) for row in range(first, last + 1) for cell in range(1, 95))
        return "".join(code.decode("gb2312", "ignore") for code in codes)

    try:
        common = "".join(map(chr, import_module("pypinyin_dict.pinyin_data.ktghz2013").pinyin_dict))
    except ImportError:
        common = ""
    return {
        "gb2312_1": rows(16, 55),
        "gb2312_2": rows(56, 87),
        "common": common,
        "cjk": "".join(map(chr, range(0x4E00, 0xA000))),
        "ascii": "".join(map(chr, range(0x20, 0x7F))),
    }


def coverage(tokenizer: Tokenizer) -> list[Coverage]:
    """How each of ``character_sets`` is covered."""
    pieces = tokenizer.vocabulary.pieces
    own, known = {p for p in pieces if len(p) == 1}, set("".join(pieces))
    found = []
    for name, characters in character_sets().items():
        inside = "".join(c for c in characters if c in known and c not in own)
        missing = "".join(c for c in characters if c not in known)
        whole = len(characters)
        found.append(Coverage(name, whole, whole - len(inside) - len(missing), inside, missing))
    return found


def usage(vocabulary: Vocabulary, most: int = 20) -> list[Usage]:
    """The ``most`` most and least counted pieces, of all and of each length; by count, then in the file's order."""
    of_length: dict[int, list[Counted]] = {}
    for number, (piece, count) in enumerate(zip(vocabulary.pieces, vocabulary.counts, strict=True)):
        of_length.setdefault(len(piece), []).append(Counted(count, vocabulary.first_id + number, piece))
    of_length = {0: [p for group in of_length.values() for p in group], **dict(sorted(of_length.items()))}
    return [
        Usage(
            length,
            len(group),
            heapq.nsmallest(most, group, key=lambda p: (-p.count, p.id)),
            heapq.nsmallest(most, group, key=lambda p: (p.count, -p.id)),
        )
        for length, group in of_length.items()
        if group
    ]


def rounds(folder: Path) -> list[dict[str, Any]]:
    """What the training of the vocabulary wrote after each round (step, pieces, pieces_by_length, bytes_per_token)."""
    rows = read_metrics(folder / "metrics.jsonl")
    return [row for row in rows if isinstance(row, dict) and row.get("kind") == "round"]


# -- texts ---------------------------------------------------------------------------------------------------------


class Domain(NamedTuple):
    """The documents of a file. cut: there are more than were read."""

    file: Path
    documents: list[str]
    cut: bool


@dataclass(frozen=True)
class Fertility:
    """What becomes of the texts of a domain. tokens_per_han: tokens a Han character, where a token that holds others
    too counts by its share of Han characters. byte_tokens: how many tokens are single bytes."""

    domain: str
    documents: int
    bytes: int
    characters: int
    tokens: int
    tokens_per_han: float | None
    byte_tokens: int

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(self.tokens, 1)

    @property
    def characters_per_token(self) -> float:
        return self.characters / max(self.tokens, 1)


def read_domains(files: Sequence[Path], most_bytes: int = 4 << 20) -> dict[str, Domain]:
    """The documents of each file, of about ``most_bytes`` at most, by the file's name without its endings.

    Files as for ``corpus.readers.read_documents``. Raises ValueError that names file and line for a broken one.
    """
    found: dict[str, Domain] = {}
    for file in files:
        documents: list[str] = []
        size, cut = 0, False
        for batch in read_documents(file, batch_bytes=min(most_bytes, 1 << 20)):
            for text in batch.column("text").to_pylist():
                cut = size >= most_bytes
                if cut:
                    break
                documents.append(text)
                size += len(text.encode())
            if cut:
                break
        name = file.name.split(".")[0] or file.name
        found[str(file) if name in found else name] = Domain(file, documents, cut)
    return found


def fertility(tokenizer: Tokenizer, documents: Mapping[str, Sequence[str]]) -> list[Fertility]:
    """Bytes, characters and tokens of the documents of each domain."""
    v = tokenizer.vocabulary
    joined = "".join(v.pieces)
    han, lengths = _han(joined), np.array([len(piece) for piece in v.pieces])
    begins = np.cumsum(lengths) - lengths
    shares = np.add.reduceat(han, begins, dtype=np.int64) / lengths
    han_bytes = np.add.reduceat(han * utf8_sizes(_points(joined)), begins)
    found = []
    for domain, texts in documents.items():
        ids, _ = tokenizer.encode_batch(list(texts))
        numbers = ids[ids >= v.first_id].astype(np.int64) - v.first_id
        whole = "".join(texts)
        sizes = utf8_sizes(_points(whole))[_han(whole)]
        # Bytes of Han characters that no piece holds are byte tokens.
        tokens = shares[numbers].sum() + int(sizes.sum()) - int(han_bytes[numbers].sum())
        rate = float(tokens) / len(sizes) if len(sizes) else None
        size, in_bytes = len(_bytes(whole)), len(ids) - len(numbers)
        found.append(Fertility(domain, len(texts), size, len(whole), len(ids), rate, in_bytes))
    return found


def _points(text: str) -> NDArray[np.int64]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)


def _han(text: str) -> NDArray[np.bool_]:
    """[characters] which are Han."""
    points, place = np.unique(_points(text), return_inverse=True)
    return (kinds_of(points.tolist()) == HAN)[place]
