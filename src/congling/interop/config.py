"""Section ``[export]``."""

from typing import Literal

from congling.config import Config, option


class ExportConfig(Config):
    """For whom, and where to."""

    format: Literal["hf", "gguf", "space"] = option(
        "hf", "hf: transformers (a vocabulary: hf alone); gguf: llama.cpp; space: a demo page for a hub"
    )
    out: str = option("", "folder to make (gguf: file); empty: beside the model, such as runs/NAME/sft-hf")
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", "type of the weights (hf and gguf)")
    licence: str = option("", "licence of the model for its card, such as apache-2.0; empty: the card says none")
