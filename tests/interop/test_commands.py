"""The two commands, from the command line."""

from pathlib import Path

import torch

from congling.cli import BAD_CONFIG, FAILED, OK
from interop import folders
from interop.test_seed import state_dict


def one_line(text, *words):
    assert text.count("\n") == 1
    assert text.startswith("congling: ")
    for word in words:
        assert word in text


def test_import_seed(congling):
    Path("vocab.txt").write_text("我\t3\n你\t2\n.\t1\n", encoding="utf-8")
    torch.save(state_dict(256 + 3 + 4, 6, 1, 2, 3, 5), "jerry.weight")
    code, out, said = congling("import-seed", "jerry.weight", "vocab.txt", "models/jerry")
    assert (code, out) == (OK, "models/jerry\n")
    assert "1 layers of 6, 2 heads of 3, feed-forward 5, 263 rows" in said
    code, _, error = congling("import-seed", "jerry.weight", "vocab.txt", "models/jerry")
    assert code == FAILED
    one_line(error, "models/jerry", "new or an empty folder")
    code, _, error = congling("import-seed", "none.weight", "vocab.txt", "models/other")
    assert code == FAILED
    one_line(error, "none.weight: no such file")
    code, _, error = congling("import-seed", "jerry.weight", "vocab.txt")
    assert code == BAD_CONFIG
    one_line(error, "OUT is missing")


def test_export(congling):
    folders.write(Path("sft"))
    code, out, _ = congling("export", "sft", "format=hf", "out=there/hf")
    assert (code, out) == (OK, "there/hf\n")
    assert Path("there/hf/modeling_congling.py").exists()
    code, _, error = congling("export", "sft", "format=gguf")
    assert code == FAILED
    one_line(error, "position=distance_decay_heads", "format=hf")
    code, _, error = congling("export", "sft", "format=onnx")
    assert code == BAD_CONFIG
    one_line(error, "export.format", "gguf")
    code, _, error = congling("export", "nowhere")
    assert code == FAILED
    one_line(error, "nowhere: no such folder")
