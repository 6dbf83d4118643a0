"""``format=hf``: a folder for ``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)``."""

import shutil
from pathlib import Path
from typing import Any

import torch

from congling import __version__, artifact, chat
from congling.interop.config import ExportConfig
from congling.interop.lineage import find_lineage, trained_length
from congling.model.config import Architecture
from congling.model.folder import VOCABULARY, WEIGHTS, load_model
from congling.model.tensors import write_tensors
from congling.tokenizer.export import export as export_tokenizer
from congling.tokenizer.tokenizer import Tokenizer

_CODE = ("configuration_congling", "modeling_congling")
_USUAL_LENGTH = 2048  # tokens that tools may give the model when no manifest says how long training was
# Dials under the library's names, where it has one. What only shapes starting values stays behind.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "head_dim": "head_dim",
    "intermediate_size": "ffn_dim",
    "tie_word_embeddings": "tie_embeddings",
}
_DIALS = (
    "position", "log_scale_from", "norm", "qk_norm", "qk_bias", "affine", "talking_heads", "value_residual",
    "feed_forward", "dropout", "logit_softcap",
)  # fmt: skip


def write_hf(folder: Path, out: Path, config: ExportConfig) -> None:
    """Writes the model of ``folder`` into the new folder ``out``. Raises ValueError in one line."""
    model = load_model(folder)
    tokenizer = Tokenizer.load(folder / VOCABULARY)
    export_tokenizer(tokenizer, out, with_model=True)
    dtype = getattr(torch, config.dtype)
    weights = {hf_name(name): p.detach().to(dtype) for name, p in model.named_parameters()}
    with artifact.atomic_open(out / WEIGHTS) as file:
        write_tensors(file, weights, {"format": "pt"})
    length = model.architecture.max_len or trained_length(find_lineage(folder)) or _USUAL_LENGTH
    special = _special_ids(tokenizer)
    described = hf_config(model.architecture, length)
    artifact.write_json(out / "config.json", {**described, **special, "dtype": config.dtype})
    artifact.write_json(out / "generation_config.json", special)
    for module in _CODE:
        shutil.copyfile(Path(__file__).with_name(f"{module}.py"), out / f"{module}.py")


def hf_name(name: str) -> str:
    """The name of a parameter of ours in ``modeling_congling.py``."""
    outer = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight"}
    return outer.get(name) or (name if name.startswith("head_affine.") else f"model.{name}")


def hf_config(architecture: Architecture, length: int) -> dict[str, Any]:
    """What ``config.json`` says of the model. length: tokens that training saw."""
    dials = architecture.model_dump()
    modeling, configuration = "modeling_congling", "configuration_congling"
    return {
        "model_type": "congling",
        "architectures": ["CongLingForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{configuration}.CongLingConfig",
            "AutoModel": f"{modeling}.CongLingModel",
            "AutoModelForCausalLM": f"{modeling}.CongLingForCausalLM",
        },
        **{theirs: dials[ours] for theirs, ours in _SIZES.items()},
        **{dial: dials[dial] for dial in _DIALS},
        "max_position_embeddings": length,
        "congling_version": __version__,
    }


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    if not tokenizer.special:
        return {"pad_token_id": 0}  # the seed's row of padding; its markers are text
    return {
        "bos_token_id": tokenizer.end_id,
        "eos_token_id": sorted(chat.stop_ids(tokenizer)),
        "pad_token_id": tokenizer.pad_id,
    }
