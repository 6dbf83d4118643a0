"""The CPU backend against the uncached float32 model, with every dial; and bits that depend on nothing else."""

import numpy as np
import pytest
import torch

pytest.importorskip("numba")
from congling.infer.cpu.backend import CpuBackend
from infer.cpu.cases import Driver, V, expected, transformer

DIALS = [
    {},
    {"position": "distance_decay"},
    {"position": "alibi"},
    {"position": "none", "feed_forward": "swiglu"},
    {"position": "sinusoidal", "head_dim": 72},
    {"position": "learned", "max_len": 80},
    {"position": "rope"},
    {"talking_heads": True},
    {"talking_heads": True, "log_scale_from": 8, "position": "alibi"},
    {"qk_norm": True, "tie_embeddings": False},
    {"qk_bias": True, "logit_softcap": 3.0},
    {"qk_norm": True, "qk_bias": True, "value_residual": True},
    {"value_residual": True, "talking_heads": True, "num_heads": 5},
    {"preset": "jerry-0.18b"},
    {"preset": "jerry-0.18b", "value_residual": True, "qk_norm": True, "log_scale_from": 16},
]
TEXTS = [np.random.default_rng(i).integers(0, V, count).tolist() for i, count in enumerate((70, 37, 5))]


def forms(dials):
    return ["kv"] if dials.get("position") == "rope" else ["kv", "absorbed"]


def decoded(backend):
    """Logits of TEXTS at every place: prompts together, then all sequences that have more, a token each."""
    driver, done = Driver(backend, 3), [33, 20, 1]
    out = [driver.feed({s: TEXTS[s][: done[s]] for s in range(3)}, prompt=True)]
    while going := [s for s in range(3) if done[s] < len(TEXTS[s])]:
        out.append(driver.feed({s: TEXTS[s][done[s] : done[s] + 1] for s in going}, prompt=False))
        for s in going:
            done[s] += 1
    return [np.concatenate([part[s] for part in out if s in part]) for s in range(3)]


@pytest.mark.parametrize("dials", DIALS, ids=str)
def test_float32_equals_the_uncached_model_at_every_step(dials):
    model = transformer(**dials)
    for cache in forms(dials):
        for s, logits in enumerate(decoded(CpuBackend(model, "fp32", cache, threads=1))):
            np.testing.assert_allclose(logits, expected(model, TEXTS[s]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("precision", "cache_precision", "limit"), [
    ("bf16", "auto", 0.02), ("int8", "auto", 0.05), ("int8", "bf16", 0.05), ("int4", "auto", 0.5),
    ("fp32", "int8", 0.03),
])  # fmt: skip
@pytest.mark.parametrize("dials", [DIALS[7], DIALS[11], DIALS[14]], ids=str)
def test_other_precisions_are_near(dials, precision, cache_precision, limit):
    model = transformer(**dials)
    for cache in forms(dials):
        for s, logits in enumerate(decoded(CpuBackend(model, precision, cache, cache_precision, threads=1))):
            wanted = expected(model, TEXTS[s])
            error = np.sqrt(np.mean((logits - wanted) ** 2) / np.var(wanted))
            assert error < limit, (cache, error)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("dials", [DIALS[7], DIALS[11], DIALS[6]], ids=str)
def test_bits_depend_neither_on_the_batch_nor_on_how_a_prompt_is_cut_nor_on_threads(dials, precision):
    model = transformer(**dials)
    rng = np.random.default_rng(2)
    texts = {s: rng.integers(0, V, 3 + 9 * s).tolist() for s in range(7)}
    for cache in forms(dials):
        together = Driver(CpuBackend(model, precision, cache, threads=1), 7, 70)
        prompts = together.feed(texts, prompt=True)
        first = together.feed({s: [s] for s in range(7)}, prompt=False)
        more = together.feed({s: [s, 7, 9] for s in range(7)}, prompt=False)
        for s in (0, 5):
            alone = Driver(CpuBackend(model, precision, cache, threads=2), 7, 70)
            cut = [alone.feed({s: texts[s][i : i + 5]}, prompt=True)[s] for i in range(0, len(texts[s]), 5)]
            np.testing.assert_array_equal(np.concatenate(cut), prompts[s])
            np.testing.assert_array_equal(alone.feed({s: [s]}, prompt=False)[s], first[s])
            steps = [alone.feed({s: [i]}, prompt=False)[s] for i in (s, 7, 9)]
            np.testing.assert_array_equal(np.concatenate(steps), more[s])


def test_prompts_and_decoding_in_one_step_and_wanted_rows():
    model = transformer(talking_heads=True)
    driver = Driver(CpuBackend(model, "fp32", "absorbed", threads=1), 3)
    driver.feed({1: TEXTS[1][:20]}, prompt=True)
    out = driver.feed({0: TEXTS[0][:40], 1: TEXTS[1][20:21], 2: TEXTS[2]})  # several rows count as a prompt
    np.testing.assert_allclose(out[1][0], expected(model, TEXTS[1])[20], atol=1e-4)
    np.testing.assert_allclose(out[0], expected(model, TEXTS[0])[:40], atol=1e-4)


def test_a_copied_page_is_the_same_and_bytes_are_told():
    model = transformer()
    backend = CpuBackend(model, "bf16", "kv", "bf16", threads=1)
    driver = Driver(backend, 2)
    driver.feed({0: TEXTS[0][:30]}, prompt=True)
    backend.copy_page(driver.tables[0, 0], driver.tables[1, 0])
    driver.lengths[1] = 30
    one, other = driver.feed({0: [3], 1: [3]}, prompt=False).values()
    np.testing.assert_array_equal(one, other)
    assert (
        backend.page_bytes == 2 * 32 * 2 * 3 * 64 * 2
    )  # layers, tokens, keys and values, heads, width (filled up), bf16


def test_absorbed_cache_of_jerry_takes_a_quarter():
    from congling.model.config import ModelConfig
    from congling.model.transformer import Transformer

    model = Transformer(ModelConfig(preset="jerry-0.18b", num_layers=1).resolve(V)).eval()
    for precision in ("fp32", "bf16", "int8"):
        sizes = [CpuBackend(model, precision, cache, threads=1).page_bytes for cache in ("absorbed", "kv")]
        assert 4 * sizes[0] <= sizes[1]


def test_rope_has_no_absorbed_form():
    with pytest.raises(ValueError, match="rope"):
        CpuBackend(transformer(position="rope"), "fp32", "absorbed")
    assert CpuBackend(transformer(position="rope"), "fp32", threads=1).cache == "kv"


def test_weights_of_another_type_and_devices_memory_are_not_touched():
    model = transformer().to(torch.bfloat16)
    before = [p.clone() for p in model.parameters()]
    logits = Driver(CpuBackend(model, "bf16", threads=1), 1).feed({0: TEXTS[2]}, prompt=True)[0]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    wanted = expected(model.float(), TEXTS[2])
    assert np.abs(logits - wanted).max() < 0.1
