"""Section ``[pretrain]``."""

from typing import Literal

from congling.config import option
from congling.train.config import LoopConfig


class PretrainConfig(LoopConfig):
    """The loop's fields, and how documents share a window."""

    documents: Literal["together", "separate"] = option(
        "together", "separate: no token looks into another document of its window (slower)"
    )
