"""Traditional to simplified: the table and its exceptions give what OpenCC gives."""

import subprocess
from pathlib import Path

import numpy as np
import opencc
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from congling.clean.traditional import AMBIGUOUS, simplify

CONVERT = opencc.OpenCC("t2s").convert
OPENCC = Path(opencc.__file__).parent / "clib"
SEPARATORS = "".join(map(chr, [*range(0x80), *range(0x3000, 0x3040), *range(0xFF00, 0x10000)]))


def _simplify(texts, wanted=None):
    array = pa.array(["前", *texts], pa.large_string()).slice(1)
    new, changed = simplify(array, np.ones(len(texts), np.uint16) if wanted is None else np.array(wanted, np.uint16))
    new.validate(full=True)
    pieces = iter(new.to_pylist())
    result = [next(pieces) if other else text for text, other in zip(texts, changed, strict=True)]
    assert not list(pieces)
    assert changed.tolist() == [a != b for a, b in zip(texts, result, strict=True)]
    return result


def test_only_documents_that_are_wanted_and_change():
    texts = ["乾坤與乾燥", "简体", "", "頭髮", "慰藉，憑藉\n狼藉"]
    assert _simplify(texts) == ["乾坤与干燥", "简体", "", "头发", "慰藉，凭借\n狼藉"]
    assert _simplify(texts, [0, 1, 1, 1, 0]) == [texts[0], "简体", "", "头发", texts[4]]
    assert _simplify([]) == []


def test_every_character_alone():
    codes = (code for code in range(1, 0x110000) if not (0xD800 <= code < 0xE000 or 0x2FF0 <= code < 0x3000))
    text = "，".join(map(chr, codes))
    assert _simplify([text]) == [CONVERT(text)]


def test_ambiguous_characters_are_those_of_the_dictionary(tmp_path):
    tool = OPENCC / "bin/opencc_dict"
    if not tool.exists():
        pytest.skip("this build of OpenCC has no opencc_dict")
    source, target = OPENCC / "share/opencc/TSPhrases.ocd2", tmp_path / "phrases"
    subprocess.run([tool, "-i", source, "-o", target, "-f", "ocd2", "-t", "text"], check=True)
    phrases = dict(line.split("\t") for line in target.read_text().splitlines())
    pairs = {(a, b) for phrase, text in phrases.items() for a, b in zip(phrase, text.split(" ")[0], strict=True)}
    assert "".join(sorted({a for a, b in pairs if CONVERT(a) != b})) == AMBIGUOUS
    assert not set(SEPARATORS) & set("".join(phrases))


HAN = st.characters(min_codepoint=0x3400, max_codepoint=0x9FFF)
PIECES = [
    *AMBIGUOUS,
    *"坤隆著憑慰與養龍馬頭髮后後台⿰⿱⿲\u2ffe，。、“”…—々 a\n\né😀\uf90a\U0002f81a𠀀𫝈\ufe00",
    "乾坤",
    "計程車",
]


@settings(deadline=None, max_examples=400)
@given(st.lists(st.lists(st.sampled_from(PIECES) | HAN, max_size=20).map("".join), max_size=4))
@example(["字⿰木，養龍\n養", "⿱", "養"])
@example(["，乾⿰木，乾養。乾"])
@example(["⿰乾", "⿰\n乾", "⿲養", "養"])
def test_equals_opencc(texts):
    assert _simplify(texts) == [CONVERT(text) for text in texts]
