"""What each dial of the 0.18 B model is worth: held-out bits per byte at equal compute, three seeds each, in a small
model of the same proportions (small_training.py), on text of ../shared (shared_tokens.py).

Usage: python benchmarks/ablation.py WORKFOLDER sweep | dials | combined …   trains what is missing; several may run;
                                                                      dials:1 is its first seed alone
       python benchmarks/ablation.py WORKFOLDER store                        stores means and deviations
"""

import sys
from collections import defaultdict
from statistics import mean, stdev

from common import store
from congling.model.config import PRESETS
from shared_tokens import VOCAB_SIZE, absent, mix
from small_training import JERRY, LOOP, SEED_OPTIMIZER, SMALL, Run, mean_flops, rows, train_missing

# Where the search began; every dial is then changed alone.
START = {
    **PRESETS["base-0.18b"], **SMALL, "position": "distance_decay_heads", "fastest_decay": 0.1, "slowest_decay": 0.1,
    "norm": "pre", "qk_norm": True, "affine": False, "talking_heads": False, "value_residual": False,
    "feed_forward": "relu2", "tie_embeddings": False, "logit_softcap": 0.0,
}  # fmt: skip
DIALS = {
    "start": {},
    "norm after each layer": {"norm": "post"},
    "no QK norm": {"qk_norm": False},
    "one rate a layer": {"position": "distance_decay"},
    "rates 1 … 0.001": {"fastest_decay": 1.0, "slowest_decay": 1e-3},
    "rates 0.3 … 0.01": {"fastest_decay": 0.3, "slowest_decay": 1e-2},
    "SwiGLU": {"feed_forward": "swiglu", "ffn_dim": 170},
    "ReLU, ReLU after": {"feed_forward": "relu_relu"},
    "value residual": {"value_residual": True},
    "soft cap 15": {"logit_softcap": 15.0},
    "z-loss 1e-4": {},
    "tied head": {"tie_embeddings": True},
    "talking heads": {"talking_heads": True},
    "affine scalars, rate 2e-3": {"affine": True},
    "8 heads of 32": {"num_heads": 8, "head_dim": 32},
    "2 heads of 128": {"num_heads": 2, "head_dim": 128},
    "inner width 128, feed-forward 512": {"num_heads": 2, "head_dim": 64, "ffn_dim": 512},
    "ALiBi": {"position": "alibi"},
    "RoPE": {"position": "rope"},
    "no positions": {"position": "none"},
    "jerry": JERRY,
}
_VALUES = {"value_residual": True}
_RELU = {**_VALUES, "feed_forward": "relu_relu"}
_SWIGLU = {**_VALUES, "feed_forward": "swiglu", "ffn_dim": 170}
LONGER = {  # what may be an effect of short trainings: 2.5 times the compute
    "value residual": _VALUES,
    "value residual, ReLU, ReLU after": _RELU,
    "value residual, SwiGLU": _SWIGLU,
}
LONGEST = {name: LONGER[name] for name in ("value residual, ReLU, ReLU after", "value residual, SwiGLU")}  # 6 times
LOOPS = {"z-loss 1e-4": {"z_loss": 1e-4}, "affine scalars, rate 2e-3": {"lr": 2e-3}}
COMBINED = {
    "value residual, ReLU, ReLU after": _RELU,
    "value residual, SwiGLU": _SWIGLU,
    "value residual, tied head": {**_VALUES, "tie_embeddings": True},
    "value residual, no QK norm": {**_VALUES, "qk_norm": False},
    "value residual, ReLU, ReLU after, no QK norm": {**_RELU, "qk_norm": False},
    "value residual, ReLU, ReLU after, tied head": {**_RELU, "tie_embeddings": True},
    "value residual, ReLU, ReLU after, 2 heads of 128": {**_RELU, "num_heads": 2, "head_dim": 128},
    "value residual, ReLU, ReLU after, talking heads": {**_RELU, "talking_heads": True},
    "value residual, ReLU, ReLU after, rates 1 … 0.001": {**_RELU, "fastest_decay": 1.0, "slowest_decay": 1e-3},
}
LR, JERRY_LR, JERRY_ADAM_LR = 1.2e-2, 1e-3, 3e-4
SEEDS = (1, 2, 3)
TOKENS = 400_000  # of START; the others get as many as the same FLOPs allow
BASE, BASE_LR = {**START, **_SWIGLU}, LR


def runs(kind, seeds=SEEDS):
    """Runs of a kind in the order that tells most first."""
    flops = TOKENS * mean_flops(START, TOKENS, {})
    if kind == "sweep":
        for name, model, loop, rates in (
            ("start, Muon", START, {}, (6e-3, 1.2e-2, 2.4e-2)),
            ("ReLU after, Muon", {**START, **_RELU}, {}, (6e-3, 1.2e-2, 2.4e-2)),
            ("jerry, Muon", JERRY, {}, (3e-4, 1e-3, 2e-3)),
            ("jerry, AdamW", JERRY, SEED_OPTIMIZER, (1.5e-4, 3e-4, 6e-4, 1e-3)),
        ):
            for lr in rates:
                yield Run(kind, f"{name}, {lr:g}", 1, flops, model, {**loop, "lr": lr})
    flops *= {"longer": 2.5, "longest": 6}.get(kind, 1)
    named = {"dials": DIALS, "combined": COMBINED, "longer": LONGER, "longest": LONGEST}.get(kind, {})
    for seed in seeds:
        for name, dials in named.items():
            loop = {"lr": JERRY_LR if name == "jerry" else LR, **LOOPS.get(name, {})}
            yield Run(kind, name, seed, flops, {**START, **dials}, loop)


def summary(found):
    """{kind: {name: mean, standard deviation, …}} of rows."""
    groups = defaultdict(list)
    for row in found:
        groups[row["kind"], row["name"]].append(row)
    result = defaultdict(dict)
    for (kind, name), group in groups.items():
        bits = [row["bits_per_byte"] for row in group]
        result[kind][name] = {
            "bits_per_byte": round(mean(bits), 4),
            "deviation": round(stdev(bits), 4) if len(bits) > 1 else None,
            "seeds": len(bits),
            "tokens_per_processor_second": round(mean(row["tokens_per_processor_second"] for row in group)),
            **{key: group[0][key] for key in ("tokens", "flops", "muon_flops", "parameters", "lr")},
            "skipped_steps": sum(row["skipped_steps"] for row in group),
        }
    return result


def main():
    if absent():
        return
    work, kinds = sys.argv[1], sys.argv[2:]
    if kinds == ["store"]:
        setting = {"model": SMALL, "start": START, "vocabulary": VOCAB_SIZE, "loop": LOOP}
        setting["text"] = mix(f"{work}/tokens")
        found = [row for row in rows(work) if row["kind"] in ("sweep", "dials", "combined", "longer", "longest")]
        store("ablation", {**setting, "rows": summary(found)})
        return
    for word in kinds:
        kind, _, seed = word.partition(":")
        train_missing(runs(kind, (int(seed),) if seed else SEEDS), work)


if __name__ == "__main__":
    main()
