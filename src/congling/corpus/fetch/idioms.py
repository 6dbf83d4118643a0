"""An idiom's dictionary entry as a paragraph of text and as a conversation about it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

Message = dict[str, str]

_QUESTIONS = (
    "{}是什么意思？",
    "请解释成语“{}”。",
    "成语{}的意思是什么？",
    "“{}”这个成语怎么理解？",
    "你知道{}是什么意思吗？",
    "帮我解释一下“{}”。",
)
_SOURCE_QUESTIONS = ("它的出处是哪里？", "这个成语出自哪里？", "它有什么来历？")
_EXAMPLE_QUESTIONS = ("能用它造个句子吗？", "请举个例子。", "这个成语怎么用？")
_HELD_OUT = 100  # one idiom in so many is kept for evaluation

_NUMERAL = "[一二三四五六七八九十百〇○零上下]"
# In the table every opening quotation mark and the colon before it are lost. Both are put back where it is sure.
_REFERENCE = re.compile(r"(同|见|作|通|犹|称)([^，。；：“”‘’]{1,14})”")
_CITATION = re.compile(rf"([^《》“”]{{0,20}}《[^》]+》(?:之{_NUMERAL}+|(?:卷|第){_NUMERAL}+[回章折出卷]?)?)([^“”]+)”")


@dataclass(frozen=True)
class Idiom:
    """An entry; what the dictionary does not know is empty."""

    word: str
    pinyin: str
    explanation: str
    source: str
    example: str

    def paragraph(self) -> str:
        """The entry in running text."""
        text = f"成语“{self.word}”读作{self.pinyin}，意思是：{self.explanation}"
        if self.source:
            text += f"出处：{self.source}"
        if self.example:
            text += f"例句：{self.example}"
        return text

    def conversation(self) -> list[Message]:
        """A question and its answer; for some, a second question about the source or for an example."""
        number = _stable_number(self.word)
        number, template = divmod(number, len(_QUESTIONS))
        turns = [(_QUESTIONS[template].format(self.word), f"{self.word}的意思是：{self.explanation}")]
        number, follow_up = divmod(number, 4)
        if follow_up == 0 and self.source:
            turns.append((_SOURCE_QUESTIONS[number % len(_SOURCE_QUESTIONS)], f"它的出处是：{self.source}"))
        elif follow_up == 1 and self.example:
            turns.append((_EXAMPLE_QUESTIONS[number % len(_EXAMPLE_QUESTIONS)], f"可以，例如：{self.example}"))
        return [
            message
            for question, answer in turns
            for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        ]

    def is_held_out(self) -> bool:
        """Whether conversations about it are kept for evaluation."""
        return _stable_number(self.word) % _HELD_OUT == 0


def parse_idiom(row: Mapping[str, str]) -> Idiom:
    """An entry from a row of the table (word, pinyin, explanation, derivation, example; ``无`` for none)."""
    word = row["word"].strip()

    def field(name: str) -> str:
        text = row[name].strip()
        return "" if text == "无" else text.replace("～", word)

    example, _, author = field("example").partition("★")
    return Idiom(
        word,
        row["pinyin"].strip(),
        _sentence(field("explanation")),
        _sentence(field("derivation")),
        _sentence(example) + (f"（{_mend_quotes(author)}）" if author.strip() else ""),
    )


def _sentence(text: str) -> str:
    text = re.sub(r"([。！？])[，。]+", r"\1", _mend_quotes(text)).replace("，。", "。")
    return text if not text or text[-1] in "。！？”’）…" else f"{text}。"


def _mend_quotes(text: str) -> str:
    text = text.strip()
    if "”" not in text or "“" in text:
        return text
    if text.count("”") == 1 and (citation := _CITATION.fullmatch(text)):
        return f"{citation[1]}：“{citation[2]}”"
    parts = _REFERENCE.sub(r"\1“\2”", text)
    return re.sub(r"“([^“”]*)”|”", lambda m: m[0] if m[1] is not None else "", parts)


def _stable_number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
