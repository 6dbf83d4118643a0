import pytest

from congling.evaluate.run import bigram_f1, chinese_share


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("一心一意", "一心一意", 1.0),
        ("", "好的", 0.0),
        ("好", "好", 1.0),
        ("甲乙丙", "甲乙丁", 0.5),
        ("甲乙甲乙", "甲乙", 0.5),
    ],
)
def test_bigram_f1(answer, reference, expected):
    assert bigram_f1(answer, reference) == pytest.approx(expected)


def test_chinese_share():
    assert chinese_share("你好，世界。") == 1
    assert chinese_share("你好ab") == 0.5
    assert chinese_share("") == 0
