"""Weights as the seed publishes them are read, whatever their sizes, and compute what SEED §3 says."""

import math
import pickle

import pytest
import torch

from congling.chat import render
from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.interop.config import ExportConfig
from congling.interop.export import export
from congling.interop.seed import import_seed

WORDS = "我你他从零开始语言模型好，。 <|>imstaredun_abcdefghjklopqvwxyz0123456789ABCDEF"
LAYER = "encoder.encoder_layers."
ATTENTION = "multi_head_attention."
AFFINES = ("query_a", "key_a", "value_a", "out_a", "absolute_affine", "relative_affine")


@pytest.fixture
def vocabulary(tmp_path):
    """What the seed's file looks like; ``,`` ``\\r`` ``\\n`` ``\\t`` come with ``.``."""
    file = tmp_path / "vocab.txt"
    pieces = sorted({*WORDS, "从零", "语言", "语言模型", "."})
    file.write_text("".join(f"{piece}\t{90 - n}\n" for n, piece in enumerate(pieces)), encoding="utf-8")
    return file, 256 + len(pieces) + 4


def state_dict(rows, d, layers, heads, k, f):
    """Random weights under the names of SEED §3, all scalars off their starting values."""
    g = torch.Generator().manual_seed(7)

    def normal(*shape, scale):
        return torch.randn(*shape, generator=g) * scale

    def affine(name, value, bias=0.0):
        wanted = {"value": value, "bias": bias}
        return {f"{name}.{x}": torch.tensor([y]) + normal(1, scale=0.002) for x, y in wanted.items()}

    made = {"embedding.look_up_table.weight": normal(rows, d, scale=d**-0.5)}
    made |= affine("embedding.affine", d**0.5 / 100) | affine("projector.affine", 0.01)
    made["projector.project.weight"] = normal(rows, d, scale=d**-0.5)
    for n in range(layers):
        a, p = f"{LAYER}{n}.{ATTENTION}", f"{LAYER}{n}.position_wise_feed_forward."
        made |= {f"{a}{x}_w.weight": normal(heads * k, d, scale=d**-0.5) for x in ("query", "key", "value")}
        made[f"{a}out_w.weight"] = normal(d, heads * k, scale=d**-0.5)
        for x in ("before", "after"):
            made[f"{a}talking_{x}_softmax.weight"] = normal(heads, heads, scale=0.7)
        for x in AFFINES:
            made |= affine(a + x, 0.01) if x.endswith("_a") else affine(a + x, 0.4 if x[0] == "a" else 0.06, 0.1)
        made[f"{p}w1.weight"], made[f"{p}w2.weight"] = normal(f, d, scale=d**-0.5), normal(d, f, scale=f**-0.5)
        made |= affine(f"{p}a1", 0.01) | affine(f"{p}a2", 0.01)
        made[f"{LAYER}{n}.layer_norm.weight"] = 1 + normal(d, scale=0.1)
    return made


def reference(w, rows, layers, heads):
    """SEED §3, one position after another and one head after another, in float64."""
    w = {name: value.double() for name, value in w.items()}

    def A(name, x):
        return 100 * (x * w[f"{name}.value"] + w[f"{name}.bias"])

    x = A("embedding.affine", w["embedding.look_up_table.weight"][rows])
    for n in range(layers):
        a, p = f"{LAYER}{n}.{ATTENTION}", f"{LAYER}{n}.position_wise_feed_forward."
        q, k, v = (A(f"{a}{m}_a", x @ w[f"{a}{m}_w.weight"].T) for m in ("query", "key", "value"))
        size = q.shape[1] // heads
        r = w[f"{a}relative_affine.value"] + w[f"{a}relative_affine.bias"]
        c = w[f"{a}absolute_affine.value"] + w[f"{a}absolute_affine.bias"]
        before, after = (w[f"{a}talking_{m}_softmax.weight"] for m in ("before", "after"))
        mixed = torch.zeros_like(q)
        for i in range(len(rows)):
            s = torch.zeros(heads, i + 1, dtype=torch.float64)
            for h in range(heads):
                part = slice(h * size, (h + 1) * size)
                for j in range(i + 1):
                    s[h, j] = q[i, part] @ k[j, part] / math.sqrt(size) / (1 + r * (i - j)) - (c if j < i else 0)
            weights = after @ torch.softmax(before @ s, -1)
            for h in range(heads):
                part = slice(h * size, (h + 1) * size)
                mixed[i, part] = weights[h] @ v[: i + 1, part]
        x = x + A(f"{a}out_a", mixed @ w[f"{a}out_w.weight"].T)
        f = torch.relu(A(f"{p}a1", x) @ w[f"{p}w1.weight"].T)
        x = x + torch.relu(A(f"{p}a2", f) @ w[f"{p}w2.weight"].T)
        x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * w[f"{LAYER}{n}.layer_norm.weight"]
    return A("projector.affine", x @ w["projector.project.weight"].T)


@pytest.mark.parametrize("sizes", [(16, 2, 4, 8, 24), (15, 3, 3, 7, 21)], ids=["even", "odd"])
def test_logits_are_the_seeds(tmp_path, vocabulary, sizes):
    file, rows = vocabulary
    weights = state_dict(rows, *sizes)
    torch.save(weights, tmp_path / "jerry.weight")
    found = import_seed(tmp_path / "jerry.weight", file, tmp_path / "out")
    assert (found.dim, found.num_layers, found.num_heads, found.head_dim, found.ffn_dim) == sizes
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.json", "model.safetensors", "vocabulary.txt"]
    model = Model.load(tmp_path / "out")
    ids = model.tokenizer.encode("从零开始语言模型é，我 ")
    assert min(ids) < 256 <= max(ids) < rows  # a byte that no piece covers is row 255 − byte
    for rows_given in (ids, [0, *ids[:3], rows - 1]):
        ours = model.logits(rows_given).double()
        theirs = reference(weights, rows_given, sizes[1], sizes[2])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sizes", [(16, 1, 2, 8, 24), (15, 1, 3, 7, 21)], ids=["even", "odd"])
def test_chats_with_markers_in_ordinary_characters(tmp_path, vocabulary, sizes):
    file, rows = vocabulary
    torch.save(state_dict(rows, *sizes), tmp_path / "w")
    import_seed(tmp_path / "w", file, tmp_path / "out")
    model = Model.load(tmp_path / "out")
    messages = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]
    ids, learned = render([*messages, messages[0]], model.tokenizer, generation_prompt=True)
    shown = "<|im_start|>user 你好<|im_end|><|im_start|>assistant 好<|im_end|><|im_start|>user 你好<|im_end|>"
    assert model.tokenizer.decode(ids) == shown + "<|im_start|>assistant "
    assert ids == model.tokenizer.encode(shown + "<|im_start|>assistant ")
    learnt = [i for i, on in zip(ids, learned, strict=True) if on]
    assert model.tokenizer.decode(learnt) == "好<|im_end|>"
    assert isinstance(model.chat(messages[:1], SampleConfig(max_tokens=5)), str)
    assert model.tuned


def test_an_answer_ends_at_the_written_marker(tmp_path, vocabulary):
    """A model whose next token depends on the last alone: space → 好 → <|im_end|> → 我 → 我 …"""
    file, rows = vocabulary
    with open(file, "a", encoding="utf-8") as more:
        more.write("<|im_end|>\t1\n")
    rows += 1
    weights = state_dict(rows, rows, 1, 2, 8, 24)
    for name, value in weights.items():
        if "_w.weight" in name or name.endswith(("w2.weight", "bias")):
            value.zero_()
    weights["embedding.look_up_table.weight"] = torch.eye(rows)
    head = weights["projector.project.weight"].zero_()
    rows_of = {piece: n for n, piece in enumerate(sorted({*vocabulary_pieces(file)}), 256)}
    for last, then in ((" ", "好"), ("好", "<|im_end|>"), ("<|im_end|>", "我"), ("我", "我")):
        head[rows_of[then], rows_of[last]] = 1
    torch.save(weights, tmp_path / "w")
    import_seed(tmp_path / "w", file, tmp_path / "out")
    model = Model.load(tmp_path / "out")
    greedy = SampleConfig(temperature=0, repetition_penalty=0, max_tokens=6)
    assert model.chat([{"role": "user", "content": "你"}], greedy) == "好"
    assert model.generate("好", greedy) == "<|im_end|>我我我我我"


def vocabulary_pieces(file):
    return [line.partition("\t")[0] for line in file.read_text("utf-8").splitlines()] + [",", "\r", "\n", "\t"]


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16, torch.float64])
def test_wrapped_prefixed_and_in_other_types(tmp_path, vocabulary, half):
    file, rows = vocabulary
    weights = {name: value.to(half) for name, value in state_dict(rows, 16, 1, 2, 8, 24).items()}
    weights["embedding.affine.value"] = weights["embedding.affine.value"][0]  # a scalar without a shape
    wrapped = {"step": 3, "model": {f"module.{name}": value for name, value in weights.items()}}
    torch.save(wrapped, tmp_path / "w")
    import_seed(tmp_path / "w", file, tmp_path / "out")
    named = dict(Model.load(tmp_path / "out").transformer.named_parameters())
    assert named["layers.0.attention.query.affine.bias"].item() == weights[f"{LAYER}0.{ATTENTION}query_a.bias"].item()
    assert torch.equal(named["embedding"], weights["embedding.look_up_table.weight"].float())


class Code:
    def __reduce__(self):
        return print, ("run",)


def _without(name):
    return lambda w: w.pop(name)


def _shape(name, *shape):
    return lambda w: w.update({name: torch.zeros(*shape)})


MISTAKES = {
    "missing": (
        _without(f"{LAYER}1.{ATTENTION}out_a.bias"),
        r"layers\.1\.multi_head_attention\.out_a\.bias is missing",
    ),
    "embedding": (_without("embedding.look_up_table.weight"), r"no embedding\.look_up_table\.weight"),
    "extra": (_shape("encoder.position.weight", 3), r"encoder\.position\.weight is no part of the seed's model"),
    "shape": (_shape("projector.project.weight", 300, 15), r"project\.weight has shape \[300, 15\], expected"),
    "heads": (_shape(f"{LAYER}0.{ATTENTION}talking_before_softmax.weight", 3, 3), "16 numbers cannot be of 3 heads"),
    "flat": (_shape("embedding.look_up_table.weight", 9), r"shape \[9\], expected a matrix"),
    "whole numbers": (lambda w: w.update({f"{LAYER}0.layer_norm.weight": torch.ones(16).int()}), "no floating-point"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, vocabulary, mistake):
    file, rows = vocabulary
    weights = state_dict(rows, 16, 2, 2, 8, 24)
    change, words = MISTAKES[mistake]
    change(weights)
    torch.save(weights, tmp_path / "w")
    refused(tmp_path, file, words)


def refused(tmp_path, vocabulary, words):
    with pytest.raises(ValueError, match=words) as caught:
        import_seed(tmp_path / "w", vocabulary, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vocab.txt", "w"]


def test_files_that_are_no_weights(tmp_path, vocabulary, capsys):
    file, rows = vocabulary
    weights = state_dict(rows, 16, 1, 2, 8, 24)
    (tmp_path / "w").write_bytes(pickle.dumps({"a": 1}))
    refused(tmp_path, file, "no weights in torch's zip format")
    torch.save({**weights, "code": Code()}, tmp_path / "w")
    refused(tmp_path, file, "it was not loaded")
    assert capsys.readouterr().out == ""
    torch.save(weights, tmp_path / "w")
    whole = (tmp_path / "w").read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "w").write_bytes(whole[:size])
        refused(tmp_path, file, "cut short or damaged")
    torch.save({"a": weights, "ema": weights}, tmp_path / "w")
    refused(tmp_path, file, "2 sets of weights")
    torch.save(weights | {"projector.affine.bias": torch.tensor([math.nan])}, tmp_path / "w")
    refused(tmp_path, file, "not finite")
    torch.save(weights | {"embedding.look_up_table.weight": torch.zeros(1, 16).expand(10**9, 16)}, tmp_path / "w")
    refused(tmp_path, file, "claims more numbers than the file has")
    torch.save({n.replace("layers.0", "layers.1"): value for n, value in weights.items()}, tmp_path / "w")
    refused(tmp_path, file, "layers.0|layer 0")


def test_a_vocabulary_that_does_not_fit(tmp_path, vocabulary):
    file, rows = vocabulary
    torch.save(state_dict(rows + 2, 16, 1, 2, 8, 24), tmp_path / "w")
    refused(tmp_path, file, f"gives {rows} rows .* has {rows + 2}")
    file.write_text("我\tmany\n", encoding="utf-8")
    refused(tmp_path, file, "vocab.txt:1: expected piece, tab, count")


def test_a_folder_with_something_in_it_is_not_touched(tmp_path, vocabulary):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("x")
    with pytest.raises(ValueError, match="new or an empty folder"):
        import_seed(tmp_path / "w", vocabulary[0], tmp_path / "out")
    assert (tmp_path / "out" / "thesis.doc").read_text() == "x"


def test_goes_on_to_transformers(tmp_path, vocabulary):
    transformers = pytest.importorskip("transformers")
    from congling.interop.huggingface.modeling_congling import CongLingForCausalLM

    file, rows = vocabulary
    torch.save(state_dict(rows, 15, 2, 3, 7, 21), tmp_path / "w")
    import_seed(tmp_path / "w", file, tmp_path / "out")
    model = Model.load(tmp_path / "out")
    hf = export(tmp_path / "out", ExportConfig())
    theirs = CongLingForCausalLM.from_pretrained(hf)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(hf)
    messages = [{"role": "user", "content": "你好"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == render(messages, model.tokenizer, generation_prompt=True)[0]
    with torch.no_grad():
        torch.testing.assert_close(theirs(torch.tensor([ids])).logits[0], model.logits(ids), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="norm=post, feed_forward=relu_relu, affine=true, talking_heads=true"):
        export(tmp_path / "out", ExportConfig(format="gguf"))
