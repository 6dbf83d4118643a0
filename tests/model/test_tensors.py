"""The writer of safetensors files, against the library's own."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load, save

from congling import artifact
from congling.artifact import ArtifactError
from congling.model.tensors import read_tensors, write_tensors

KINDS = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)


def written(path, tensors):
    with open(path, "wb") as file:
        return write_tensors(file, tensors)


def test_all_kinds_shapes_and_strides_come_back(tmp_path):
    tensors = {f"k{n}/甲": (torch.randn(3, 5) * 9).to(kind) for n, kind in enumerate(KINDS)}
    tensors |= {
        "none": torch.empty(0, 4),
        "scalar": torch.tensor(2.5),
        "mT": torch.randn(4, 6).mT,
        "odd": torch.ones(3),
    }
    tensors["cut"] = torch.arange(40.0)[3:30:2]
    found = written(tmp_path / "x", tensors)
    assert found == {"bytes": (tmp_path / "x").stat().st_size, "hash": artifact.hash_file(tmp_path / "x")}
    for back in (read_tensors(tmp_path / "x"), load((tmp_path / "x").read_bytes())):
        assert back.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert back[name].dtype == tensor.dtype
            assert torch.equal(back[name], tensor), name


def test_the_bytes_are_those_of_the_library(tmp_path):
    tensors = {name: torch.randn(7, 3) for name in ("b", "a/x", "c")} | {"step": torch.tensor(3.0)}
    written(tmp_path / "x", tensors)
    assert (tmp_path / "x").read_bytes() == save(tensors)


def test_a_large_tensor_goes_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("congling.model.tensors._CHUNK", 16)
    tensors = {"a": torch.randn(33), "b": torch.randn(5, 5).bfloat16()}
    assert written(tmp_path / "x", tensors)["hash"] == artifact.hash_file(tmp_path / "x")
    assert all(torch.equal(value, tensors[name]) for name, value in read_tensors(tmp_path / "x").items())


def test_no_second_copy_in_memory(tmp_path):
    """150 MB are written and read with less than 20 MB more than the tensors took."""
    code = f"""
import resource, sys, torch
from congling.model.tensors import write_tensors, read_tensors
tensors = {{str(n): torch.full((1 << 21,), float(n)) for n in range(18)}}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open({str(tmp_path / "x")!r}, "wb") as file:
    write_tensors(file, tensors)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
back = read_tensors({str(tmp_path / "x")!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert max(map(int, done.stdout.split())) < 20_000, done.stdout  # KiB


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_a_torn_file_is_one_line(tmp_path, size):
    written(tmp_path / "x", {"a": torch.randn(50)})
    os.truncate(tmp_path / "x", size if size >= 0 else (tmp_path / "x").stat().st_size - 1)
    with pytest.raises(ArtifactError, match=r"x: damaged .*; make or copy the model again$"):
        read_tensors(tmp_path / "x")
