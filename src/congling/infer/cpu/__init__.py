"""Generation on a CPU: packed weights, numba kernels, no compiler needed."""

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path


def available() -> bool:
    """Whether numba is there."""
    return find_spec("numba") is not None


def drop_stale_kernels(folder: Path) -> None:
    """Deletes compiled kernels that are older than any source file of ``folder``.

    Kernels call one another across files, and numba's cache looks at the file of the outermost alone.
    """
    newest = max(file.stat().st_mtime for file in folder.glob("*.py"))
    for file in sorted((folder / "__pycache__").glob("*.nb[ci]"), reverse=True):  # the index before what it lists
        with suppress(OSError):  # another process was faster, or the folder is read-only
            if file.stat().st_mtime < newest:
                file.unlink()


drop_stale_kernels(Path(__file__).parent)
