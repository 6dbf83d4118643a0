"""Options of the fetch stage."""

from typing import Literal

from congling.config import Config, option


class FetchConfig(Config):
    """Which data set is brought here, and from where."""

    dataset: str = option(
        "demo", "demo, poetry, a known set of the hub (a wrong name lists them) or owner/name of any hub data set"
    )
    kind: Literal["corpus", "dialogues"] = option("corpus", "what an owner/name holds: documents or conversations")
    files: tuple[str, ...] = option((), "patterns of the hub files to fetch, e.g. ['data/2021-*']; none: the set's own")
    cache: str = option("data/archives", "folder of downloaded archives, kept between runs", affects_result=False)
