"""llama.cpp itself (``pip install xllamacpp``) on the exported file: our tokens, our text, our log-probabilities."""

import json
import urllib.request

import pytest
import torch

from congling.interop.config import ExportConfig
from congling.interop.export import export
from interop import folders

xllamacpp = pytest.importorskip("xllamacpp")
TEXTS = ["你好从零开始语言模型", "the  语言\nab", " 你好", "", "<|im_end|>"]


@pytest.mark.parametrize("dials", ["llama", "qwen3"])
def test_llama_cpp_computes_what_we_do(tmp_path, dials):
    ours = folders.write(tmp_path / "sft", **{**folders.DIALS[dials], "dim": 64, "head_dim": 64, "ffn_dim": 96})
    tokenizer = folders.tokenizer()
    server = start(export(tmp_path / "sft", ExportConfig(format="gguf")))
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ask(server, "/tokenize", content=text, add_special=False, parse_special=False)["tokens"] == ids
        assert ask(server, "/detokenize", tokens=ids)["content"] == text
    assert ask(server, "/tokenize", content="<|im_end|>", add_special=True)["tokens"] == [1, 3]
    prompt = [1, *tokenizer.encode("你好，the 语言模型从零开始。")]
    settings = {"n_predict": 1, "temperature": 0, "n_probs": 20, "post_sampling_probs": False}
    compared = 0
    for _ in range(6):  # one by one: the server leaves out those whose text ends within a character
        with torch.no_grad():
            wanted = torch.log_softmax(ours.logits(ours(torch.tensor([prompt]))[0, -1]), -1)
        found = ask(server, "/completion", prompt=prompt, **settings).get("completion_probabilities", [])
        for row in found[0]["top_logprobs"] if found else ():
            assert row["logprob"] == pytest.approx(wanted[row["id"]].item(), abs=1e-4)
        prompt.append(int(wanted.argmax()))
        assert not found or found[0]["id"] == prompt[-1]
        compared += len(found)
    assert compared >= 3


def start(file):
    """A server that keeps keys and values in float32, as we do (its default is float16: 1e-3 off)."""
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.warmup, params.cpuparams.n_threads = 256, 1, False, 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(params)


def ask(server, path, **body):
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())
