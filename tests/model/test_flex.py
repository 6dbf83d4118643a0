"""FlexAttention's own arithmetic on a CPU (its eager form) beside ``attend``; its compiled form: ``test_gpu.py``."""

import pytest
import torch
from torch.nn.attention import flex_attention as torchs

from congling.model.attend import DocumentMask, attend
from congling.model.flex import causal_blocks, document_blocks, flex_attend
from congling.model.positions import DecayOfHeads
from model.compare import Case, evaluate, inputs, make_position

POSITIONS = ("shared", "heads", "alibi", "none")


@pytest.fixture(autouse=True)
def _a_backward_pass_on_a_cpu(monkeypatch):
    """Torch refuses it, though its eager form has one; and warns that this form is slow."""
    monkeypatch.setattr(torchs, "_validate_device", lambda *_: None)
    monkeypatch.setattr(torchs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("length", "queries"), [(150, 150), (150, 31)])
@pytest.mark.parametrize("documents", [False, True])
def test_output_and_gradients_of_inputs_equal_plain_attention(position, length, queries, documents):
    case = Case(3, length, queries, position=position, documents=documents, talking=False, dtype="float64")

    def fixed(q, k, v, position, documents):  # the gradient of its own parameters: test_talking_heads.py
        return flex_attend(q, k, v, position.double().requires_grad_(False), documents)

    got, wanted = (evaluate_inputs(function, case) for function in (fixed, attend))
    for name in ("out", "q", "k", "v"):  # the factor 1/√K of ``attend`` is rounded to float32
        torch.testing.assert_close(
            got[name], wanted[name], rtol=1e-5, atol=1e-7, msg=f"{name}: {got[name] - wanted[name]}"
        )


def evaluate_inputs(function, case):
    def with_ballast(q, k, v, position, documents):
        y = function(q, k, v, position, documents)
        return y + sum(p.sum() * 0 for p in position.requires_grad_().parameters())

    return evaluate(with_ballast, case, torch.float64)


@pytest.mark.parametrize("length", [1, 90, 128, 130])
def test_a_prompt_is_padded_and_cut_again(length):
    case = Case(2, length, position="heads", talking=False, dtype="float32")
    (q, k, v, _), _ = inputs(case)
    with torch.no_grad():
        got = flex_attend(q, k, v, make_position(case))
        torch.testing.assert_close(got, attend(q, k, v, make_position(case)), rtol=1e-5, atol=1e-6)
    assert got.shape == q.shape


@pytest.mark.parametrize(("queries", "keys"), [(300, 300), (129, 300), (44, 300), (128, 256), (1, 1)])
@pytest.mark.parametrize("documents", [False, True])
def test_block_lists_lose_no_open_place_and_call_full_only_what_is(queries, keys, documents):
    numbers = (torch.rand(2, keys, generator=torch.Generator().manual_seed(1)) < 0.01).cumsum(1)
    numbers[1] = 0  # one whole document
    mask = DocumentMask(numbers[:, keys - queries :], numbers)
    made = document_blocks(mask) if documents else causal_blocks(queries, keys, torch.device("cpu"))
    open_ = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries).expand(2 if documents else 1, -1, -1)
    if documents:
        open_ = open_ & ~mask.blocked[:, 0]
    for row in range(len(open_)):
        for block, (some, full) in enumerate(zip(*(walked(made, row, kind) for kind in ("", "full_")), strict=True)):
            lines = open_[row, 128 * block : 128 * block + 128]
            columns = [lines[:, start : start + 128] for start in range(0, keys, 128)]
            assert full == {n for n, c in enumerate(columns) if c.all()}
            assert {n for n, c in enumerate(columns) if c.any()} == some | full
            assert not some & full


def walked(mask, row, kind):
    numbers, places = (getattr(mask, f"{kind}kv_{name}")[row, 0] for name in ("num_blocks", "indices"))
    return [set(p[:n].tolist()) for n, p in zip(numbers, places, strict=True)]


def test_layers_share_one_compilation():
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(torchs.flex_attention, dynamic=False, fullgraph=True, backend=counter)
    (q, k, v, _), _ = inputs(Case(2, 16, talking=False))
    import congling.model.flex as flex

    for layer in (DecayOfHeads(2, 0.3, 0.1), DecayOfHeads(2, 0.2, 0.2)):
        modifier = flex._modifier(layer, *flex._decay(layer), 0)
        got = compiled(q, k, v, modifier, causal_blocks(16, 16, q.device))
        torch.testing.assert_close(got, attend(q, k, v, layer).detach(), rtol=1e-5, atol=1e-6)
    assert counter.frame_count == 1
