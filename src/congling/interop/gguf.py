"""``format=gguf``: a file for llama.cpp, for the models that one of its architectures expresses exactly.

These are rotary positions, norms before each part, SwiGLU, and of the other dials only ``qk_norm`` ("qwen3" there;
without it "llama", which turns neighbouring numbers of a head: queries and keys are put in its order).

The vocabulary goes in as the kind that llama.cpp calls UGM, which takes the path of the largest score sum as we do. Ids
to text is exact, lone bytes included. Text to ids is ours as long as every character has a piece: llama.cpp gives the
unknown id where we give bytes. Scores are single floats there, exact down to −16.7 nats; below, near ties may differ.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from congling.interop.config import ExportConfig
from congling.interop.lineage import find_lineage, trained_length
from congling.model.config import Architecture
from congling.model.folder import VOCABULARY, load_model
from congling.model.functional import EPS
from congling.tokenizer.export import CHAT_TEMPLATE
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import SPECIALS

_NEEDED = {
    "position": "rope", "norm": "pre", "feed_forward": "swiglu", "affine": False, "talking_heads": False,
    "value_residual": False, "qk_bias": False, "logit_softcap": 0.0, "log_scale_from": 0,
}  # fmt: skip
_USUAL_LENGTH = 2048  # tokens of context when no manifest says how long training was
_SPACE = "\u2581"  # how llama.cpp writes a space in a piece
_PARTS = {
    "attention.query.weight": "attn_q.weight",
    "attention.key.weight": "attn_k.weight",
    "attention.value.weight": "attn_v.weight",
    "attention.out.weight": "attn_output.weight",
    "attention_norm.weight": "attn_norm.weight",
    "feed_forward.gate.weight": "ffn_gate.weight",
    "feed_forward.up.weight": "ffn_up.weight",
    "feed_forward.down.weight": "ffn_down.weight",
    "feed_forward_norm.weight": "ffn_norm.weight",
}
_OUTER = {"embedding": "token_embd.weight", "norm.weight": "output_norm.weight", "head": "output.weight"}


def write_gguf(folder: Path, out: Path, config: ExportConfig) -> None:
    """Writes the model of ``folder`` into the file ``out``. Raises ValueError that names the dials in the way."""
    model = load_model(folder)
    check_expressible(model.architecture)
    try:
        import gguf
    except ImportError:
        raise ValueError("format=gguf needs the package gguf: pip install 'congling[gguf]'") from None
    a = model.architecture
    writer = gguf.GGUFWriter(out, "qwen3" if a.qk_norm else "llama")
    _write_sizes(writer, a, trained_length(find_lineage(folder)) or _USUAL_LENGTH)
    _write_vocabulary(writer, gguf, Tokenizer.load(folder / VOCABULARY))
    kind = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[config.dtype]
    writer.add_file_type(getattr(gguf.LlamaFileType, "ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"))
    for name, data in _tensors(model.named_parameters(), a):
        stored = getattr(gguf.GGMLQuantizationType, kind if data.ndim > 1 else "F32")
        writer.add_tensor(name, gguf.quants.quantize(data, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_expressible(architecture: Architecture) -> None:
    """Raises ValueError that names the dials for which llama.cpp has no architecture."""
    dials = architecture.model_dump()
    others = [f"{dial}={_shown(dials[dial])}" for dial, value in _NEEDED.items() if dials[dial] != value]
    if others:
        needed = " ".join(f"{dial}={_shown(value)}" for dial, value in _NEEDED.items() if value)
        raise ValueError(
            f"format=gguf: no architecture of llama.cpp has {', '.join(others)}; it takes models trained with {needed} "
            "and, but for qk_norm, nothing else; export this one with format=hf"
        )


def _shown(value: Any) -> str:
    return str(value).lower()


def _write_sizes(writer: Any, a: Architecture, length: int) -> None:
    writer.add_context_length(length)
    writer.add_embedding_length(a.dim)
    writer.add_block_count(a.num_layers)
    writer.add_feed_forward_length(a.ffn_dim)
    writer.add_head_count(a.num_heads)
    writer.add_head_count_kv(a.num_heads)
    writer.add_key_length(a.head_dim)
    writer.add_value_length(a.head_dim)
    writer.add_rope_dimension_count(a.head_dim)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_vocab_size(a.vocab_size)


def _write_vocabulary(writer: Any, gguf: Any, tokenizer: Tokenizer) -> None:
    v, types = tokenizer.vocabulary, gguf.TokenType
    pieces = [_piece(number, piece) for number, piece in enumerate(v.pieces, v.first_id)]
    kinds = [types.UNUSED if _SPACE in piece else types.NORMAL for piece in v.pieces]
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces])
    writer.add_token_scores([0.0] * v.first_id + [float(score) for score in v.scores])
    writer.add_token_types([types.CONTROL] * len(SPECIALS) + [types.BYTE] * 256 + kinds)
    writer.add_add_space_prefix(False)
    writer.add_remove_extra_whitespaces(False)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_bos_token_id(tokenizer.end_id)
    writer.add_eos_token_id(tokenizer.im_end_id)
    writer.add_eot_token_id(tokenizer.im_end_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_unk_token_id(tokenizer.pad_id)
    writer.add_chat_template(CHAT_TEMPLATE)


def _piece(number: int, piece: str) -> str:
    """A piece as llama.cpp has it; one with its mark for a space cannot be told from that of a space, and is lost."""
    return f"<piece {number}>" if _SPACE in piece else piece.replace(" ", _SPACE)


def _tensors(parameters: Iterator[tuple[str, Tensor]], a: Architecture) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, parameter in parameters:
        data = parameter.detach().numpy()
        if name in _OUTER:
            yield _OUTER[name], data
            continue
        _, number, rest = name.split(".", 2)
        turned = rest in ("attention.query.weight", "attention.key.weight")
        yield f"blk.{number}.{_PARTS[rest]}", _interleaved(data, a.num_heads) if turned and not a.qk_norm else data
    if a.qk_norm:  # ours has no weights there
        for layer in range(a.num_layers):
            for part in ("q", "k"):
                yield f"blk.{layer}.attn_{part}_norm.weight", np.ones(a.head_dim, np.float32)


def _interleaved(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """[H·K, D]: of each head, the rows 0, K/2, 1, K/2 + 1 …: pairs that were half a head apart become neighbours."""
    rows, columns = weight.shape
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
