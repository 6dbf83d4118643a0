"""congling 从零: from a raw Chinese crawl to a chatting model of your own.

``Tokenizer`` and ``Model`` are the stable names of the library; everything a command does is a function call in the
room of that name (see docs/architecture.md). Both names are imported on first use, so that ``import congling`` is
quick and needs neither torch nor numba.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from congling.infer.model import Model
    from congling.tokenizer.tokenizer import Tokenizer

__version__ = "0.1.0"
__all__ = ["Model", "Tokenizer", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Tokenizer":
        from congling.tokenizer.tokenizer import Tokenizer

        return Tokenizer
    if name == "Model":
        from congling.infer.model import Model

        return Model
    raise AttributeError(f"module 'congling' has no attribute {name!r}")
