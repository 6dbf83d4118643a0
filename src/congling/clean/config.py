"""The ``[clean]`` section."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from congling.config import Config, option

# A limit is a number, or a quantile of the corpus: "q0.05" is the value that 5 % of the documents lie below.
_QUANTILE = r"^q(0(\.\d+)?|1(\.0+)?)$"
Limit = Annotated[float, Field(ge=0)] | Annotated[str, Field(pattern=_QUANTILE)]


def _quality(value: float | str) -> float | str:
    fits = value in ("high", "mid") or re.match(_QUANTILE, value) if isinstance(value, str) else 0 <= value <= 1
    if not fits:
        raise ValueError("must be high, mid, a score from 0 to 1, or a quantile such as q0.3")
    return value


class CleanConfig(Config):
    """What is normalised, which documents are dropped, what is cut from them, and what counts as the same text.

    A share is of the characters that are not white space. A largest share of 1 (or a least share of 0) switches its
    rule off. Every limit of a rule can be a number or a quantile of the corpus (``"q0.05"``).
    """

    input: tuple[str, ...] = option((), "files, folders or globs of raw text; empty: what `congling fetch` brought")
    text_key: tuple[str, ...] = option(
        ("text", "content"), "where the text is in a JSON object or table: the first there"
    )
    encoding: str = option("utf-8", "of the input, for example gb18030")
    on_error: Literal["stop", "skip"] = option(
        "stop", "a broken record or a damaged file: stop with file and line, or go on and list it among the rejects"
    )
    executor: Literal["local", "ray"] = option("local", "processes here, or a Ray cluster", affects_result=False)
    workers: int = option(0, "processes; 0: one a core", affects_result=False, ge=0, le=4096)
    shard_mb: int = option(256, "size of a corpus file, MB of text", ge=1, le=4096)

    # -- normalisation and privacy (normalise.py, privacy.py)
    html: bool = option(True, "decode HTML entities and remove tags")
    fullwidth: bool = option(True, "full-width letters and digits become ASCII (Ａ１ -> A1)")
    mojibake: bool = option(True, "repair text that was decoded with a wrong encoding, where that is certain")
    unwrap: bool = option(True, "join lines that were broken at a fixed width")
    traditional: Literal["keep", "simplify"] = option(
        "simplify", "traditional characters: simplify (OpenCC), or keep, as poetry may want it"
    )
    mask: tuple[Literal["phone", "id", "bank", "email", "ip", "account"], ...] = option(
        ("phone", "id", "bank", "email", "ip", "account"), "personal data that become placeholders such as [手机号]"
    )

    # -- rules, in the order of the funnel (rules.py)
    max_garbled: Limit = option(0.02, "largest share of U+FFFD and private-use characters")
    max_mojibake: Limit = option(0.02, "largest share of characters decoded with a wrong encoding, beyond repair")
    min_chars: Limit = option(10, "fewest characters, white space not counted")
    max_chars: Limit = option(1_000_000, "most characters, white space not counted")
    min_cjk: Limit = option(0.1, "least share of Chinese characters")
    max_ascii: Limit = option(0.7, "largest share of ASCII letters")
    max_digits: Limit = option(0.3, "largest share of digits: tables, price lists")
    max_punctuation: Limit = option(0.4, "largest share of punctuation")
    min_commas: Limit = option(0.002, "least share of commas and full stops: text without sentences")
    max_commas: Limit = option(0.3, "largest share of commas and full stops")
    max_listed: Limit = option(0.55, "largest share of characters in short lines that end in no punctuation: menus")
    max_linked: Limit = option(0.93, "largest share of characters in lines with a web address: lists of links")
    max_stuffed: Limit = option(0.35, "largest share of letters in word lists (6 or more between 、 | _ # or spaces)")
    max_teasers: Limit = option(0.3, "largest share of characters in lines cut off by … or 阅读全文 and the like")
    max_unfinished: Limit = option(0.8, "largest share of characters behind the last sentence of lines of 50 or more")
    max_repeated_lines: Limit = option(0.45, "largest share of characters in lines that came before")
    max_repeated_paragraphs: Limit = option(0.2, "largest share in lines of 50 or more that came before")
    max_top2: Limit = option(0.2, "largest share of letters in repeats of the most frequent pair of letters")
    max_top3: Limit = option(0.2, "the same for runs of 3 letters")
    max_top4: Limit = option(0.2, "the same for runs of 4 letters")
    max_repeated5: Limit = option(0.7, "largest share of letters that are not ASCII in runs of 5 that came before")
    max_repeated6: Limit = option(0.65, "the same for runs of 6 letters")
    max_repeated7: Limit = option(0.6, "the same for runs of 7 letters")
    max_repeated8: Limit = option(0.55, "the same for runs of 8 letters")
    max_repeated9: Limit = option(0.5, "the same for runs of 9 letters")
    max_repeated10: Limit = option(0.45, "the same for runs of 10 letters")
    lexicon: str = option("", "file of words that must not be in the text, one a line, # for comments")
    max_lexicon: float = option(1, "most words of the lexicon in 1,000 characters", ge=0)

    # -- boilerplate and adverts (lines.py, adverts.py)
    adverts: Literal["cut", "drop", "off"] = option(
        "cut", "phrases that repeat across documents: cut their lines, drop documents with many, or leave them"
    )
    advert_hits: int = option(3, "drop: a document with this many different adverts goes", ge=1)
    advert_list: str = option("", "file of adverts, one a line, to use in place of those found in the corpus")
    advert_documents: int = option(8, "fewest documents that an advert, or a line that is cut everywhere, is in", ge=2)
    advert_share: float = option(1e-4, "the same as a share of the documents; the larger counts", ge=0, le=1)
    advert_letters: int = option(16, "fewest letters of an advert", ge=9, le=1000)
    advert_sample_mb: int = option(128, "size of the sample of documents in which adverts are looked for", ge=1)
    line_letters: int = option(9, "fewest Chinese letters of an advert or of a line that is cut everywhere", ge=1)

    # -- duplicates (duplicates/)
    jaccard: float = option(0.8, "texts whose shingle sets are at least this alike are near-duplicates", ge=0.3, le=1)
    shingle: int = option(5, "letters of a shingle, the unit that texts are compared by", ge=2, le=32)

    # -- quality (quality/)
    labels: tuple[str, ...] = option((), "label files of `congling label`: what people think of a sample")
    quality_keep: Annotated[float | str, AfterValidator(_quality)] = option(
        "mid", "documents that stay: high, mid (or better), those of at least this score (0 … 1), or quantile (q0.3)"
    )
    teacher: str = option("", "folder of a congling model that learns the labels and labels a sample in its turn")
    teacher_documents: int = option(20_000, "size of that sample, documents", ge=1, le=1_000_000)

    # -- evaluation sets (decontaminate.py)
    decontaminate: tuple[str, ...] = option((), "files of evaluation sets that must not be in the corpus")
    decontaminate_gram: int = option(16, "letters that a document shares with an evaluation item", ge=8, le=64)
