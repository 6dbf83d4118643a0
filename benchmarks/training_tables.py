# ruff: noqa: E501
"""Writes the newest stored figures of the ablation and of token efficiency between the markers of docs/training.md.

Usage: python benchmarks/training_tables.py"""

from extrapolation import POSITIONS
from tokenizer_tables import ROOT, newest, put, table


def _bits(row):
    deviation = "" if row["deviation"] is None else f" ± {row['deviation']:.4f}"
    return f"{row['bits_per_byte']:.4f}{deviation}"


def dials(rows, start, name="start"):
    """Rows of one kind, the best first, with what each differs from ``start``."""
    ordered = sorted(rows.items(), key=lambda item: item[1]["bits_per_byte"])
    return {
        name: {
            "bits per byte": _bits(row),
            f"against {name}": f"{row['bits_per_byte'] - start['bits_per_byte']:+.4f}",
            "seeds": row["seeds"],
            "tokens, k": f"{row['tokens'] / 1e3:.0f}",
            "parameters, M": f"{row['parameters'] / 1e6:.2f}",
            "tokens a processor second": f"{row['tokens_per_processor_second']:,}",
        }
        for name, row in ordered
    }


def ablation(result):
    f = result["figures"]
    m, rows, start = f["model"], f["rows"], f["rows"]["dials"]["start"]
    text = {domain: f"{part['train']['bytes'] / 1e6:.1f} MB" for domain, part in f["text"].items()}
    seen = ", ".join(f"{domain} {size}" for domain, size in text.items())
    parts = [
        f"{result['date'][:10]}. **Scaled down**: {m['num_layers']} layers of width {m['dim']}, {m['num_heads']} heads of {m['head_dim']}, feed-forward "
        f"{m['ffn_dim']}, {f['vocabulary']:,} ids ({start['parameters'] / 1e6:.2f} M parameters, the proportions of the 0.18 B presets), lengths "
        f"{', '.join(map(str, f['loop']['lengths']))}, steps of {f['loop']['batch_tokens']:,} tokens, Muon, rate {start['lr']:g} with cosine decay, "
        f"{start['flops'] / 1e12:.1f} TFLOP each ({start['tokens'] / 1e3:.0f} k tokens of the start; the others as many as the same FLOPs allow). Text: {seen}; "
        "no token twice. Held-out bits per byte, mean ± standard deviation over the seeds. Each dial changed alone:",
        table("dial", dials(rows["dials"], start)),
    ]
    if "combined" in rows:
        parts += ["Together:", table("dials", dials(rows["combined"], start))]
    for kind, times in (("longer", "2.5"), ("longest", "6")):
        if kind in rows:
            parts += [
                f"With {times} times the compute:",
                table("dials", dials(rows[kind], rows[kind][min(rows[kind])], min(rows[kind]))),
            ]
    parts += ["Learning rates tried (one seed):", table("recipe, rate", dials(rows["sweep"], start))]
    return "\n\n".join(parts + [f"*{remark}*" for remark in result.get("remarks", [])])


def efficiency(result):
    f = result["figures"]
    rows = {
        f"{recipe}, {float(share):g} of the compute": {
            "bits per byte": _bits(row),
            "seeds": row["seeds"],
            "tokens, k": f"{row['tokens'] / 1e3:.0f}",
            "TFLOP": f"{row['flops'] / 1e12:.1f}",
            "and Muon's own": f"{row['muon_flops'] / 1e12:.1f}",
        }
        for recipe, curve in f["curves"].items()
        for share, row in curve.items()
    }
    needed = f["share_of_the_seeds_compute_to_reach_its_final_bits_per_byte"]
    parts = [
        "Each point is a whole training with its own schedule, in the small model above:",
        table("recipe", rows),
        "Share of the seed's compute that reaches its final bits per byte: "
        + "; ".join(f"{name} {share}" for name, share in needed.items())
        + ".",
    ]
    return "\n\n".join(parts + [f"*{remark}*" for remark in result.get("remarks", [])])


def extrapolation(result):
    parts = []
    for task, methods in result["figures"]["table"].items():
        rows = {}
        for position, row in methods.items():
            for how, label in (("scaled", ", × ln n"), ("plain", "")):
                shares = row[how]
                rows[POSITIONS[position] + label] = {
                    f"{n}": f"{shares['exact'][n]:.0%} ({shares['symbols'][n]:.1%})" for n in shares["exact"]
                }
        parts += [
            f"{task}: sequences exact (symbols right), by length; seeds {result['figures']['seeds']}:",
            table("method", rows),
        ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    dial_table, curves = ablation(newest("ablation")), efficiency(newest("token-efficiency"))
    put(ROOT / "docs" / "training.md", f"{dial_table}\n\n{curves}", "ablation")
    put(ROOT / "docs" / "training.md", extrapolation(newest("extrapolation")), "extrapolation")
