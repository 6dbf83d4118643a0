"""The exported model in transformers: the same logits and greedy ids as ours for every dial, and it can be trained."""

import json

import pytest
import torch

from congling import chat
from congling.interop.config import ExportConfig
from congling.interop.export import export
from congling.tokenizer.tokenizer import Tokenizer
from interop import folders

transformers = pytest.importorskip("transformers")
PROMPTS = [[1, 300, 310, 299], [1, 280, 290, 300, 310, 320, 330, 340], [1, 350]]


@pytest.fixture(scope="module", params=folders.DIALS)
def pair(request, tmp_path_factory):
    """(ours, theirs), theirs read from the exported folder by the very class that lies beside the weights."""
    return load(tmp_path_factory.mktemp(request.param), **folders.DIALS[request.param])


def load(folder, dtype="float32", **dials):
    from congling.interop.huggingface.modeling_congling import CongLingForCausalLM

    ours = folders.write(folder / "sft", **dials)
    out = export(folder / "sft", ExportConfig(dtype=dtype))
    assert out == folder / "sft-hf"
    theirs, info = CongLingForCausalLM.from_pretrained(out, output_loading_info=True, dtype="auto")
    assert not any(info.values()), info
    assert not theirs.training
    return ours, theirs


@torch.no_grad()
def test_logits_are_ours(pair):
    ours, theirs = pair
    ids = torch.randint(16, ours.architecture.vocab_size, (2, 23), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs(ids).logits, ours.logits(ours(ids)), rtol=0, atol=1e-4)
    last = theirs(ids, logits_to_keep=2, use_cache=False, return_dict=False)
    torch.testing.assert_close(last[0], ours.logits(ours(ids))[:, -2:], rtol=0, atol=1e-4)


def test_greedy_ids_are_ours_alone_and_in_a_padded_batch(pair):
    ours, theirs = pair
    wanted = [folders.greedy(ours, prompt, 10) for prompt in PROMPTS]
    settings = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for cache in ("dynamic", "static"):
        found = [generate(theirs, [prompt], cache_implementation=cache, **settings) for prompt in PROMPTS[:2]]
        assert found == [[answer] for answer in wanted[:2]]
    assert generate(theirs, PROMPTS, **settings) == wanted


def generate(model, prompts, **settings):
    """Answers; shorter prompts are padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return model.generate(input_ids=ids, attention_mask=mask, **settings)[:, width:].tolist()


@torch.no_grad()
def test_padding_on_the_right_and_packed_rows(pair):
    ours, theirs = pair
    short, long = (ours.logits(ours(torch.tensor([prompt])))[0] for prompt in PROMPTS[:2])
    ids = torch.tensor([PROMPTS[0] + [0] * 4, PROMPTS[1]])
    found = theirs(ids, attention_mask=(ids != 0).long()).logits
    torch.testing.assert_close(found[0, :4], short, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1], long, rtol=0, atol=1e-4)
    packed = theirs(torch.tensor([PROMPTS[0] + PROMPTS[1]]), position_ids=torch.tensor([[*range(4), *range(8)]]))
    torch.testing.assert_close(packed.logits[0], torch.cat((short, long)), rtol=0, atol=1e-4)


def test_loss_and_gradients(pair):
    _, theirs = pair
    ids = torch.tensor([PROMPTS[1], PROMPTS[1][::-1]])
    labels = ids.masked_fill(torch.arange(8) < 3, -100)
    results = []
    for checkpointed in (False, True):
        theirs.train()
        theirs.model.gradient_checkpointing = checkpointed
        theirs.zero_grad()
        found = theirs(ids, labels=labels, use_cache=False)
        found.loss.backward()
        results.append(
            (found.loss.detach(), {n: p.grad.clone() for n, p in theirs.named_parameters() if p.grad is not None})
        )
    theirs.model.gradient_checkpointing = False
    theirs.eval()
    with torch.no_grad():
        logits = theirs(ids).logits[:, :-1].flatten(0, 1)
    torch.testing.assert_close(results[0][0], torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten()))
    assert set(results[0][1]) == {name for name, _ in theirs.named_parameters()}
    for name, grad in results[0][1].items():
        torch.testing.assert_close(grad, results[1][1][name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(tmp_path, dtype):
    ours, theirs = load(tmp_path, dtype, preset="base-0.18b")
    assert theirs.dtype == getattr(torch, dtype)
    ids = torch.tensor(PROMPTS[1:2])
    with torch.no_grad():
        found, wanted = theirs(ids).logits.float(), ours.logits(ours(ids))
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_auto_classes_with_the_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    ours = folders.write(tmp_path / "sft", tie_embeddings=False)
    out = export(tmp_path / "sft", ExportConfig(out=str(tmp_path / "hf"), licence="apache-2.0"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    assert "import congling" not in (out / "modeling_congling.py").read_text("utf-8")
    messages = [{"role": "user", "content": "你好"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    mine = Tokenizer.load(tmp_path / "sft")
    prompt = [mine.end_id, *chat.render(messages, mine, generation_prompt=True)[0]]
    assert ids["input_ids"].tolist() == [prompt]
    assert tokenizer("语言模型").input_ids == [mine.end_id, *mine.encode("语言模型")]
    assert tokenizer.padding_side == "left"
    assert set(model.generation_config.eos_token_id) == chat.stop_ids(mine)
    answer = model.generate(**ids, max_new_tokens=6, eos_token_id=None)[0, len(prompt) :]
    assert answer.tolist() == folders.greedy(ours, prompt, 6)
    body = transformers.AutoModel.from_pretrained(out, trust_remote_code=True)
    assert body(ids["input_ids"]).last_hidden_state.shape == (1, len(prompt), 16)
    model.save_pretrained(tmp_path / "again")
    again = type(model).from_pretrained(tmp_path / "again")
    assert torch.equal(again(ids["input_ids"]).logits, model(ids["input_ids"]).logits)


def test_what_the_folder_says(tmp_path):
    folders.write(tmp_path / "sft")
    out = export(tmp_path / "sft", ExportConfig(licence="apache-2.0"))
    config = json.loads((out / "config.json").read_bytes())
    assert (config["hidden_size"], config["head_dim"], config["tie_word_embeddings"]) == (16, 8, True)
    assert (out / "README.md").read_text("utf-8").startswith("---\nlanguage:\n- zh\n")
    assert 'license: "apache-2.0"' in (out / "README.md").read_text("utf-8")
    with pytest.raises(ValueError, match="is there already"):
        export(tmp_path / "sft", ExportConfig())
    with pytest.raises(ValueError, match="no such folder"):
        export(tmp_path / "none", ExportConfig())
    (tmp_path / "sft" / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="damaged"):
        export(tmp_path / "sft", ExportConfig(out=str(tmp_path / "other")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sft", "sft-hf"]
