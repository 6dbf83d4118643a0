"""Text of a growing id sequence, never a broken character."""

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from congling.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Holds back the bytes of an unfinished UTF-8 character; bytes that can never be one become U+FFFD."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is certain after ``token``; may be empty."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        """What was held back, as U+FFFD, at the end."""
        return self._decoder.decode(b"", final=True)
