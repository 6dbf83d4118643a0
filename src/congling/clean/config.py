"""The ``[clean]`` section."""

from typing import Literal

from congling.config import Config, option


class CleanConfig(Config):
    """What is normalised, which documents are dropped, and what counts as the same text.

    A share is of the characters that are not white space. A share limit of 1 (or a least share of 0) switches its
    rule off. Defaults come from the shares measured on real text (``benchmarks/clean.py`` prints them).
    """

    input: tuple[str, ...] = option((), "files, folders or globs of raw text; empty: what `congling fetch` brought")
    text_key: tuple[str, ...] = option(
        ("text", "content"), "where the text is in a JSON object or table: the first there"
    )
    encoding: str = option("utf-8", "of the input, for example gb18030")
    bad_records: Literal["stop", "reject"] = option(
        "stop", "broken JSON, wrong encoding: stop with file and line, or list them among the rejects"
    )
    workers: int = option(0, "processes; 0: one a core", affects_result=False, ge=0, le=4096)
    shard_mb: int = option(256, "size of a corpus file, MB of text", ge=1, le=4096)

    html: bool = option(True, "decode HTML entities and remove tags")
    fullwidth: bool = option(True, "full-width letters and digits become ASCII (Ａ１ -> A1)")

    max_garbled: float = option(0.02, "largest share of U+FFFD and private-use characters", ge=0, le=1)
    min_chars: int = option(10, "fewest characters, white space not counted", ge=1)
    max_chars: int = option(1_000_000, "most characters, white space not counted", ge=1)
    min_cjk: float = option(0.2, "least share of Chinese characters", ge=0, le=1)
    max_ascii: float = option(0.7, "largest share of ASCII letters", ge=0, le=1)
    max_punctuation: float = option(0.4, "largest share of punctuation", ge=0, le=1)
    max_repeated_lines: float = option(0.3, "largest share of characters in lines that came before", ge=0, le=1)
    max_repetition: float = option(0.45, "largest share of letters in runs of 10 that came before", ge=0, le=1)
    max_repeated_pair: float = option(0.4, "largest share of letters in repeats of one pair of letters", ge=0, le=1)

    jaccard: float = option(0.8, "texts whose shingle sets are at least this alike are near-duplicates", ge=0.3, le=1)
    shingle: int = option(5, "characters of a shingle", ge=2, le=32)
