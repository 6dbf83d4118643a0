"""``format=space``: a folder for a Space of Hugging Face or a studio of ModelScope: demo page, model, package, pins."""

import json
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import congling
from congling import artifact
from congling.interop.config import ExportConfig
from congling.model.folder import ARCHITECTURE, VOCABULARY, WEIGHTS, load_model

_GRADIO = "6.31.0"  # the version this was tried with, for when none is installed here
_APP = '''"""The demo page of the model. A Space runs it; elsewhere: pip install -r requirements.txt && python app.py"""

from pathlib import Path

import gradio

from congling.infer.model import Model
from congling.serve.gradio_app import build

demo = build(Model.load(Path(__file__).parent / "model"))

if __name__ == "__main__":  # fonts of the system: Gradio's own theme fetches some from Google
    demo.launch(theme=gradio.themes.Default(font="system-ui", font_mono="ui-monospace"))
'''
_LARGE = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"  # .gitattributes
# What of a manifest goes out: enough to check the files and to know the stage, no path or host of this machine.
_PUBLIC = ("format", "stage", "key", "seed", "hash", "code", "libraries", "summary")


def write_space(folder: Path, out: Path, config: ExportConfig) -> None:
    """Writes the new folder ``out`` for the model of ``folder``. Raises ArtifactError for a model that is not whole."""
    load_model(folder)
    out.mkdir()
    _copy_model(folder, out / "model")
    package = Path(congling.__file__).parent
    shutil.copytree(package, out / "congling", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    texts = {
        "app.py": _APP,
        "requirements.txt": "\n".join(_requirements()) + "\n",
        "README.md": _front_matter(folder.resolve(), config),
        ".gitattributes": _LARGE,
    }
    for name, text in texts.items():
        artifact.atomic_write(out / name, text.encode("utf-8"))


def _copy_model(folder: Path, out: Path) -> None:
    out.mkdir()
    names = (ARCHITECTURE, WEIGHTS, VOCABULARY)
    for name in names:
        shutil.copyfile(folder / name, out / name)
    if (folder / artifact.MANIFEST).exists():
        manifest = artifact.read_manifest(folder)
        public = {key: manifest[key] for key in _PUBLIC if key in manifest}
        public["outputs"] = {name: manifest["outputs"][name] for name in names}
        artifact.write_json(out / artifact.MANIFEST, public)


def _requirements() -> list[str]:
    """What congling needs, at the versions of this machine; torch without CUDA, which is what free Spaces have."""
    lines = ["--extra-index-url https://download.pytorch.org/whl/cpu"]
    for requirement in requires("congling") or []:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        if "extra ==" not in requirement:
            lines.append(f"{name}=={version(name).partition('+')[0]}")
    return [*lines, f"gradio=={_gradio_version()}"]


def _gradio_version() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        return _GRADIO


def _front_matter(folder: Path, config: ExportConfig) -> str:
    """Of README.md: keys that Hugging Face reads, and ``deployspec`` and ``domain``, which ModelScope does."""
    title = json.dumps("-".join(folder.parts[-2:]), ensure_ascii=False)
    lines = [
        "---", f"title: {title}", "emoji: 🐉", "colorFrom: red", "colorTo: yellow", "sdk: gradio",
        f"sdk_version: {_gradio_version()}", f'python_version: "{sys.version_info.major}.{sys.version_info.minor}"',
        "app_file: app.py", "pinned: false", "domain:", "- nlp", "deployspec:", "  entry_file: app.py",
    ]  # fmt: skip
    if config.licence:
        lines.append(f"license: {json.dumps(config.licence)}")
    return "\n".join([*lines, "---", ""])
