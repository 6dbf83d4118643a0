import tomllib
from pathlib import Path

import pytest

from congling import config
from congling.config import Config, ConfigError, option


class Inner(Config):
    rate: float = option(0.5, "a share", gt=0, le=1)
    name: str = option("x", "a name")
    lengths: tuple[int, ...] = option((1, 2), "lengths")
    limit: int | None = option(None, "a limit")
    workers: int = option(1, "processes", affects_result=False)
    first: str = option("a", "aliased", alias="from")


class Outer(Config):
    inner: Inner = option(Inner(), "the section")


def load(tmp_path: Path, text: str = "", *overrides: str) -> Inner:
    file = tmp_path / "recipe.toml"
    file.write_text(text, encoding="utf-8")
    return config.load(Outer, file, overrides, "inner").inner


def test_file_then_overrides(tmp_path):
    found = load(tmp_path, "[inner]\nrate = 0.25\nlengths = [3]", "inner.lengths=[4, 5]", "limit=7", "from=b")
    assert (found.rate, found.lengths, found.limit, found.first) == (0.25, (4, 5), 7, "b")


def test_an_override_of_a_text_field_may_look_like_a_number(tmp_path):
    assert load(tmp_path, "", "name=123").name == "123"
    assert load(tmp_path, "", "name=true").name == "true"
    assert load(tmp_path, "", "name=plain words").name == "plain words"


@pytest.mark.parametrize(
    ("text", "overrides", "needles"),
    [
        ("", ["rat=1"], ["unknown key inner.rat", "rate, name"]),
        ("[iner]\na = 1", [], ["unknown key iner", "inner"]),
        ("", ["rate=2"], ["inner.rate = 2", "less than or equal to 1"]),
        ("", ["rate=fast"], ["inner.rate", '"fast"', "number"]),
        ("[inner]\nlengths = 3", [], ["inner.lengths = 3"]),
        ("", ["limit=1.5"], ["inner.limit = 1.5", "integer"]),
        ("", ["rate"], ["expected key=value"]),
        ("", ["inner.rate.deep=1"], ["inner.rate"]),
        ("[inner", [], ["not valid TOML"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path, text, overrides, needles):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    for needle in needles:
        assert needle in message


def test_missing_and_undecodable_recipes(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        config.load(Outer, tmp_path / "none.toml", [])
    with pytest.raises(ConfigError, match="directory"):
        config.load(Outer, tmp_path, [])
    (tmp_path / "gbk.toml").write_bytes("[inner]\nname='中'".encode("gbk"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(Outer, tmp_path / "gbk.toml", [])


def test_toml_round_trip(tmp_path):
    original = Inner(rate=0.125, name='中 "quoted"\n\x7f', lengths=(), limit=3)
    text = config.to_toml({"inner": original})
    assert tomllib.loads(text)["inner"]["name"] == original.name
    assert load(tmp_path, text) == original


def test_result_key_leaves_out_what_does_not_matter():
    assert config.result_key(Inner(workers=1)) == config.result_key(Inner(workers=8))
    assert config.result_key(Inner(rate=0.1)) != config.result_key(Inner(rate=0.2))


def test_describe_lists_every_field():
    rows = {row[0]: row for row in config.describe(Inner)}
    assert set(rows) == {"rate", "name", "lengths", "limit", "workers", "from"}
    assert rows["rate"] == ("rate", "float", "0.5", "a share")
    assert rows["lengths"][2] == "[1, 2]"
