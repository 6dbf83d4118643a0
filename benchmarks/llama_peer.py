"""llama.cpp (the xllamacpp wheel) on a Llama with as many weights as a 0.18 B preset, at random, for decode.py.

pip install xllamacpp gguf
"""

import json
from pathlib import Path

import gguf
import numpy as np

KINDS = {"bf16": "F16", "int8": "Q8_0", "int4": "Q4_0"}  # what stands beside our precisions


def write_model(path: Path, kind: str, a) -> None:
    """A Llama with the widths of architecture ``a``; SwiGLU's three matrices are together as large as our two."""
    rng = np.random.default_rng(0)
    ffn = a.ffn_dim if a.feed_forward == "swiglu" else a.ffn_dim * 2 // 3  # three matrices in place of two
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(a.dim)
    writer.add_block_count(a.num_layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(a.num_heads)
    writer.add_head_count_kv(a.num_heads)
    writer.add_key_length(a.head_dim)
    writer.add_value_length(a.head_dim)
    writer.add_rope_dimension_count(a.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(a.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    tokens += [f"字{i}" for i in range(a.vocab_size - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259))  # unknown, control, byte, normal
    quantization = gguf.GGMLQuantizationType[kind]

    def matrix(name, rows, columns):
        values = rng.standard_normal((rows, columns), dtype=np.float32) * columns**-0.5
        writer.add_tensor(name, gguf.quants.quantize(values, quantization), raw_dtype=quantization)

    inner = a.num_heads * a.head_dim
    matrix("token_embd.weight", a.vocab_size, a.dim)
    matrix("output.weight", a.vocab_size, a.dim)
    writer.add_tensor("output_norm.weight", np.ones(a.dim, np.float32))
    for layer in range(a.num_layers):
        for name, rows, columns in (
            ("attn_q", inner, a.dim), ("attn_k", inner, a.dim), ("attn_v", inner, a.dim), ("attn_output", a.dim, inner),
            ("ffn_up", ffn, a.dim), ("ffn_gate", ffn, a.dim), ("ffn_down", a.dim, ffn),
        ):  # fmt: skip
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(a.dim, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """One model in llama.cpp's server, without HTTP."""

    def __init__(self, path: Path, threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = 4096, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_prompt, params.warmup, params.verbosity = False, False, -1
        self._server = xllamacpp.Server(params)

    def timings(self, context: int, tokens: int) -> dict:
        """llama.cpp's own clock: {"prompt_ms", "predicted_per_second", …}."""
        request = {
            "prompt": [300 + i % 1000 for i in range(context)], "n_predict": tokens, "temperature": 0.0,
            "samplers": ["top_k"], "top_k": 1,
            "ignore_eos": True, "cache_prompt": False,
        }  # fmt: skip
        answer = self._server.handle_completions(request)
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        return answer["timings"]
