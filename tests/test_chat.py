import pytest

from congling.chat import read_dialogues, render


class Letters:
    """Ids are code points: easy to read back."""

    im_start_id, im_end_id = -1, -2

    def encode(self, text):
        return [ord(c) for c in text]


def show(ids):
    return "".join({-1: "<", -2: ">"}.get(i) or chr(i) for i in ids)


def test_the_template_and_its_mask():
    ids, learned = render(
        [
            {"role": "user", "content": "好吗"},
            {"role": "assistant", "content": "好"},
            {"role": "user", "content": "嗯"},
        ],
        Letters(),
        generation_prompt=True,
    )
    assert show(ids) == "<user\n好吗>\n<assistant\n好>\n<user\n嗯>\n<assistant\n"
    assert show(i for i, on in zip(ids, learned, strict=True) if on) == "好>"


@pytest.mark.parametrize(
    "message", [{"role": "robot", "content": "x"}, {"role": "user"}, {"role": "user", "content": 3}]
)
def test_a_bad_message_is_refused(message):
    with pytest.raises(ValueError, match="role"):
        render([message], Letters())


@pytest.mark.parametrize(
    ("line", "needle"),
    [
        (b"{", "broken JSON"),
        (b"\xff", "not UTF-8"),
        (b"[]", "no conversation"),
        (b'{"conversations": []}', "no conversation"),
        (b'{"conversations": ["x"]}', "role"),
        (b'{"conversations": [{"role": "user", "content": 1}]}', "content"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, needle):
    file = tmp_path / "d.jsonl"
    file.write_bytes(b'{"conversations": [{"role": "user", "content": "a"}]}\n\n' + line + b"\n")
    with pytest.raises(ValueError, match=needle) as caught:
        list(read_dialogues(file))
    assert f"{file}:3" in str(caught.value)
