"""Generation on a CPU: packed weights, numba kernels, no compiler needed."""

from importlib.util import find_spec


def available() -> bool:
    """Whether numba is there."""
    return find_spec("numba") is not None
