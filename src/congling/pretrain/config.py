"""Section ``[pretrain]``."""

from congling.train.config import LoopConfig


class PretrainConfig(LoopConfig):
    """The loop's fields, with its defaults."""
