import os

from congling.infer.cpu import drop_stale_kernels


def test_compiled_kernels_older_than_any_source_go(tmp_path):
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    for name, age in (("a.py", 300), ("b.py", 100), ("__pycache__/a.f.nbi", 200), ("__pycache__/a.f.1.nbc", 200),
                      ("__pycache__/b.g.nbi", 50), ("__pycache__/a.cpython-311.pyc", 200)):  # fmt: skip
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    drop_stale_kernels(tmp_path)
    assert sorted(f.name for f in cache.iterdir()) == ["a.cpython-311.pyc", "b.g.nbi"]
