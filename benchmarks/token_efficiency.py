"""Bits per byte against tokens and compute: the seed's recipe (jerry, AdamW), jerry with Muon, base with Muon, in small
models of the same proportions (small_training.py). Each point is a whole training with its own schedule.

Usage: python benchmarks/token_efficiency.py WORKFOLDER         trains what is missing; several may run
       python benchmarks/token_efficiency.py WORKFOLDER store   stores means, deviations and the compute that base needs
"""

import math
import sys
from itertools import pairwise

from ablation import BASE, BASE_LR, JERRY_ADAM_LR, JERRY_LR, summary
from common import store
from shared_tokens import VOCAB_SIZE, absent, mix
from small_training import JERRY, LOOP, SEED_OPTIMIZER, SMALL, Run, mean_flops, rows, train_missing

KIND = "efficiency"
SEED_RECIPE, MUON, OURS = "jerry, AdamW", "jerry, Muon", "base, Muon"
RECIPES = {
    SEED_RECIPE: (JERRY, {**SEED_OPTIMIZER, "lr": JERRY_ADAM_LR}),
    MUON: (JERRY, {"lr": JERRY_LR}),
    OURS: (BASE, {"lr": BASE_LR}),
}
TOKENS = 1_000_000  # of the seed's recipe at its longest
SHARES = {SEED_RECIPE: (0.5, 1.0), MUON: (0.25, 0.5, 1.0), OURS: (0.125, 0.25, 0.5, 1.0)}  # of its compute
SEEDS = (1, 2, 3)


def runs():
    """The whole comparison of a seed before the next one's, the two runs that decide first."""
    flops = TOKENS * mean_flops(JERRY, TOKENS, {})
    points = [(recipe, share) for recipe, shares in SHARES.items() for share in shares]
    points.sort(key=lambda point: point not in [(SEED_RECIPE, 1.0), (OURS, 0.25)])
    for seed in SEEDS:
        for recipe, share in points:
            model, loop = RECIPES[recipe]
            yield Run(KIND, f"{recipe}, {share:g}", seed, share * flops, model, loop)


def compute_to_reach(bits, curve):
    """FLOPs at which ``curve`` [(FLOPs, bits per byte)] comes down to ``bits``, straight lines over log FLOPs; None: it
    does not, or begins below."""
    for (low, above), (high, below) in pairwise(curve):
        if above >= bits >= below:
            way = (above - bits) / max(above - below, 1e-9)
            return math.exp(math.log(low) + way * (math.log(high) - math.log(low)))
    return None


def figures(work):
    found = summary([row for row in rows(work) if row["kind"] == KIND])[KIND]
    curves = {recipe: {} for recipe in RECIPES}
    for name, row in found.items():
        recipe, _, share = name.rpartition(", ")
        curves[recipe][float(share)] = row
    curves = {recipe: dict(sorted(curve.items())) for recipe, curve in curves.items()}
    last = curves[SEED_RECIPE][max(curves[SEED_RECIPE])]
    needed = {}
    for recipe in (MUON, OURS):
        for label, extra in (("model", 0), ("with Muon's own", 1)):
            curve = [(r["flops"] + extra * r["muon_flops"], r["bits_per_byte"]) for r in curves[recipe].values()]
            reached = compute_to_reach(last["bits_per_byte"], curve)
            share = None if reached is None else round(reached / last["flops"], 3)
            needed[f"{recipe}, {label} FLOPs"] = share if reached else f"below {curve[0][0] / last['flops']:.3f}"
    return {"curves": curves, "share_of_the_seeds_compute_to_reach_its_final_bits_per_byte": needed}


def main():
    if absent():
        return
    work = sys.argv[1]
    if sys.argv[2:] == ["store"]:
        setting = {"model": SMALL, "base": BASE, "vocabulary": VOCAB_SIZE, "loop": LOOP, "text": mix(f"{work}/tokens")}
        store("token-efficiency", {**setting, **figures(work)})
    else:
        train_missing(runs(), work)


if __name__ == "__main__":
    main()
