"""The folder of a demo page: whole, pinned, and nothing of this machine in it."""

import ast
import json
import sys

import pytest
import yaml

from congling import artifact
from congling.interop.config import ExportConfig
from congling.interop.export import export
from congling.model.folder import load_model
from congling.pretrain.config import PretrainConfig
from interop import folders


@pytest.fixture
def space(tmp_path):
    """Of a base model, as its stage leaves it."""
    raw = tmp_path / "secret" / "raw.txt"
    raw.parent.mkdir()
    raw.write_text("x")
    config = {"pretrain": PretrainConfig(sample_prompts=("secret",))}
    with artifact.stage(tmp_path / "base", "pretrain", config, {}, 1, raw={"corpus": [raw]}) as (stage, _):
        folders.write(stage.path / "made")
        for path in (stage.path / "made").iterdir():
            path.rename(stage.path / path.name)
        (stage.path / "made").rmdir()
    return export(tmp_path / "base", ExportConfig(format="space", licence="mit"))


def test_what_is_in_it(space):
    out = space
    assert sorted(p.name for p in out.iterdir()) == [
        ".gitattributes", "README.md", "app.py", "congling", "model", "requirements.txt",
    ]  # fmt: skip
    load_model(out / "model")  # checks the hashes
    manifest = artifact.read_manifest(out / "model", "pretrain")
    assert sorted(manifest["outputs"]) == ["model.json", "model.safetensors", "vocabulary.txt"]
    assert "secret" not in json.dumps(manifest)
    assert "host" not in manifest
    assert not list(out.rglob("__pycache__"))
    assert (out / "congling" / "report" / "page.html").exists()
    lines = (out / "requirements.txt").read_text("utf-8").splitlines()
    assert lines[0].endswith("/whl/cpu")
    assert all("==" in line for line in lines[1:])
    names = {line.partition("==")[0] for line in lines[1:]}
    assert {"torch", "numba", "pydantic", "gradio"} <= names
    assert not names & {"ray", "pytest", "transformers"}
    assert not any("+" in line for line in lines[1:])


def test_front_matter_of_both_hubs(space):
    _, front, body = (space / "README.md").read_text("utf-8").split("---\n", 2)
    found = yaml.safe_load(front)
    assert (found["sdk"], found["app_file"], found["license"]) == ("gradio", "app.py", "mit")
    assert found["deployspec"] == {"entry_file": "app.py"}
    assert found["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert "# base-space" in body
    assert "python app.py" in body


def test_the_app_asks_for_what_is_there(space):
    tree = ast.parse((space / "app.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("congling"):
            path = space / (node.module.replace(".", "/") + ".py")
            if not path.exists():
                pytest.skip(f"{node.module} is not there yet")
            assert all(f" {alias.name}" in path.read_text("utf-8") for alias in node.names)
