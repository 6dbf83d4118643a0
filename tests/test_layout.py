"""The shape of the package: imports point one way, files and functions stay small, some rooms import little."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "congling"
FLOORS = (
    {"config", "artifact", "reporter"},
    {"corpus"},
    {"tokenizer", "model"},
    {"chat"},
    {"infer"},
    {"train", "evaluate"},
    {"clean", "pretrain", "finetune", "probe", "serve", "report", "interop"},
    {"recipe"},
    {"pipeline"},
    {"plan"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_rooms(tree: ast.AST, path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # only in files that are copied beside exported weights, where there is no congling
                assert path.parent.name == "huggingface", "imports are absolute"
                continue
            names = (
                [f"{node.module}.{a.name}" for a in node.names] if node.module == "congling" else [node.module or ""]
            )
        else:
            continue
        rooms |= {n.split(".")[1] for n in names if n.startswith("congling.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way_and_pieces_are_small(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
    room = _room(path)
    if room == "__init__":
        return
    assert room in LEVEL, f"{room} has no floor"
    for other in _imported_rooms(tree, path):
        assert LEVEL[other] <= LEVEL[room], f"{room} imports {other} from a higher floor"


def test_line_budget():
    # The house's budget is 9,000. The first version took 9,900, the tokenizer (Ray, export, page) 1,250 more, cleaning
    # (kernels, duplicates, adverts, labels, page) 7,200 more, pretraining (guard, journal, ranks, GPU kernels, cost,
    # probes) 4,500 more, inference (engine, kernels, search, API, page, import and export) 8,300 more: an issue that
    # needs more says so here and in docs/log.md.
    assert sum(p.read_text(encoding="utf-8").count("\n") for p in FILES) <= 31_600


def test_training_rooms_need_only_torch_numpy_safetensors_pydantic():
    code = """
import importlib, sys
for name in ("numba", "pyarrow", "orjson", "xxhash", "typer", "rich", "yaml", "fastapi", "huggingface_hub", "triton",
             "llguidance"):
    sys.modules[name] = None  # importing it fails
for name in %r:
    importlib.import_module(name)
""" % [
        ".".join(("congling", *p.relative_to(PACKAGE).with_suffix("").parts))
        for p in FILES
        if _room(p) in {"config", "artifact", "reporter", "model", "train", "infer"}
        and p.name != "__init__.py"
        and not p.name.endswith("_kernels.py")  # Triton: imported when one is launched, on a GPU, where torch has it
    ]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_needs_no_torch():
    code = "import sys, congling.cli; assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
