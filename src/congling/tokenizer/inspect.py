"""What a tokenizer does with a text, for eyes."""

from congling.tokenizer.kernels import BYTE_PENALTY, SCALE
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import escape


def inspect(tokenizer: Tokenizer, text: str) -> list[str]:
    """A line a token: id, piece, score in nats; then the number of tokens and the bytes a token."""
    vocabulary = tokenizer.vocabulary
    scale = 1 if vocabulary.kind == "seed" else SCALE
    scores = dict(zip(vocabulary.ids, vocabulary.scores, strict=True))
    ids = tokenizer.encode(text)
    rows = []
    for number in ids:
        piece = tokenizer.piece(number)
        if number in scores:
            rows.append(f"{number:>6}  {scores[number] / scale:>8.3f}  {escape(piece.decode())}")
        else:
            rows.append(f"{number:>6}  {BYTE_PENALTY / SCALE:>8.3f}  <0x{piece.hex().upper()}>")
    rows.append(f"{len(ids)} tokens, {len(text.encode()) / max(len(ids), 1):.2f} bytes a token")
    return rows
