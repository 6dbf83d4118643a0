"""Section ``[label]``: the page on which people say what a good document is."""

from typing import Self

from pydantic import model_validator

from congling.config import Config, option

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class LabelConfig(Config):
    """What is shown for labelling, to whom, and where the decisions go."""

    labels: str = option("labels.jsonl", "file that decisions are appended to, a line each")
    annotator: str = option("甲", "who labels; can be changed on the page", min_length=1, max_length=40)
    documents: int = option(2000, "documents drawn from the corpus, evenly by source", ge=1, le=100_000)
    text_key: tuple[str, ...] = option(("text", "content"), "where the text is in a raw JSON object or table")
    encoding: str = option("utf-8", "of raw text files, for example gb18030")
    seed: int = option(1, "of the draw: with the same seed everybody gets the same documents", ge=0, lt=2**31)
    host: str = option("127.0.0.1", "address to listen at; loopback only (from elsewhere, use an ssh tunnel)")
    port: int = option(8010, "port to listen at; 0: any that is free", ge=0, le=65535)

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.host not in _LOOPBACK:
            raise ValueError(
                f"host {self.host} can be reached by others: keep 127.0.0.1, and come through an ssh tunnel"
            )
        return self
