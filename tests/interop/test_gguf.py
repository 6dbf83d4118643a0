"""Files for llama.cpp: what stands in them, and which models are refused. (Its logits: benchmarks, docs/interop.md.)"""

import numpy as np
import pytest
import torch

from congling.interop.config import ExportConfig
from congling.interop.export import export
from congling.interop.gguf import check_expressible
from congling.model.config import ModelConfig
from interop import folders


@pytest.mark.parametrize(("dials", "kind"), [("llama", "llama"), ("qwen3", "qwen3")])
def test_the_file_holds_the_model(tmp_path, dials, kind):
    gguf = pytest.importorskip("gguf")
    ours = folders.write(tmp_path / "sft", **folders.DIALS[dials])
    reader = gguf.GGUFReader(export(tmp_path / "sft", ExportConfig(format="gguf", out=str(tmp_path / "m.gguf"))))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "sft"]
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == kind
    assert (fields[f"{kind}.attention.key_length"], fields[f"{kind}.embedding_length"]) == (8, 16)
    tokens = fields["tokenizer.ggml.tokens"]
    assert (len(tokens), tokens[3], tokens[16 + 65], tokens[272]) == (
        ours.architecture.vocab_size,
        "<|im_end|>",
        "<0x41>",
        "▁",
    )
    tensors = {t.name: np.array(t.data) for t in reader.tensors}
    mine = dict(ours.named_parameters())
    assert ("output.weight" in tensors) == ("head" in mine)
    assert np.array_equal(tensors["blk.2.ffn_down.weight"], mine["layers.2.feed_forward.down.weight"].detach())
    query = tensors["blk.1.attn_q.weight"]
    wanted = mine["layers.1.attention.query.weight"].detach()
    if kind == "llama":
        order = [head * 8 + half * 4 + pair for head in range(2) for pair in range(4) for half in range(2)]
        wanted = wanted[order]
    assert np.array_equal(query, wanted)
    assert ("blk.0.attn_q_norm.weight" in tensors) == (kind == "qwen3")


def test_half_precision(tmp_path):
    gguf = pytest.importorskip("gguf")
    ours = folders.write(tmp_path / "sft", **folders.DIALS["llama"])
    reader = gguf.GGUFReader(export(tmp_path / "sft", ExportConfig(format="gguf", dtype="bfloat16")))
    tensors = {t.name: t for t in reader.tensors}
    assert tensors["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    found = gguf.quants.dequantize(tensors["token_embd.weight"].data, tensors["token_embd.weight"].tensor_type)
    assert torch.equal(torch.tensor(found), ours.embedding.detach().bfloat16().float())


def test_what_llama_cpp_cannot_express_is_named(tmp_path):
    folders.write(tmp_path / "sft")
    with pytest.raises(ValueError, match="position=distance_decay_heads, feed_forward=relu2;") as caught:
        export(tmp_path / "sft", ExportConfig(format="gguf"))
    assert "position=rope norm=pre feed_forward=swiglu" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["sft"]
    jerry = ModelConfig(preset="jerry-0.18b").resolve(300)
    with pytest.raises(ValueError, match="norm=post, feed_forward=relu_relu, affine=true, talking_heads=true"):
        check_expressible(jerry)
