"""What tests of several rooms share."""

import pytest

from congling import cli


@pytest.fixture
def congling(capsys, monkeypatch, tmp_path):
    """Runs a command line in an empty folder; returns (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")  # no restart of the test's own process

    def run(*arguments: str):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run
