# ruff: noqa: E501
"""Writes the newest stored figures of cleaning between the markers of docs/cleaning.md and of both READMEs.

Usage: python benchmarks/clean_tables.py"""

from tokenizer_tables import ROOT, newest, put, table

KEEPS = {
    "rules": "rules alone",
    "classifier_mid": "and classifier, keep = mid, 5-fold",
    "classifier_new_source_mid": "the same, of a source not learned from",
    "classifier_high": "and classifier, keep = high, 5-fold",
}


def rates(figures):
    return {
        name: {key.replace("_mb_s_", ", "): f"{value:.3g}" for key, value in row.items()}
        for name, row in figures["rates"].items()
    }


def steps(figures):
    run, size = figures["ours"]["ours, all"], figures["inputs"]["all"]["text_mb"]
    return {
        name: {"processor seconds": f"{value:.2f}", "MB of text a second": f"{size / value:.0f}"}
        for name, value in sorted(run["processor_seconds"].items(), key=lambda item: -item[1])
    }


def scale(runs):
    return {
        f"{name} GB": {
            "documents": f"{run['documents_in']:,}",
            "stay": f"{run['documents_out']:,}",
            "seconds": f"{run['seconds']:.0f}",
            "seconds a GB": f"{run['seconds_per_gb']:.1f}",
            "memory of all, MB": f"{run['memory_mb']:.0f}",
            "main process": f"{run['root_mb']:.0f}",
            "a worker": f"{run['worker_mb']:.0f}",
            "disk, MB": f"{run['disk_mb']:.0f}",
        }
        for name, run in runs.items()
    }


def quality(figures):
    return {
        name: {
            "low kept": row["low_kept"],
            "mid kept": row["mid_kept"],
            "high kept": row["high_kept"],
            "precision": f"{row['positive_mid_or_high']['precision']:.2f} {row['positive_mid_or_high']['precision_95']}",
            "recall": f"{row['positive_mid_or_high']['recall']:.2f} {row['positive_mid_or_high']['recall_95']}",
        }
        for key, name in KEEPS.items()
        for row in [figures["keep"][key]]
    }


def document():
    names = ("clean-speed", "clean-scale", "duplicates", "clean-quality")
    results = {name: newest(name) for name in names}
    speed, big, twins, kept = (results[name]["figures"] for name in names)
    hardware, date = results["clean-speed"]["hardware"], results["clean-speed"]["date"][:10]
    size, near, estimate = speed["inputs"]["all"], twins["quality"], twins["estimates"]
    parts = [
        f"{date}, {hardware['cpu']}, {hardware['cores']} cores. The whole stage on one core, {size['json_mb']:.0f} MB of JSON lines "
        f"({size['documents']:,} documents, {size['text_mb']:.0f} MB of text), zstd in, Parquet out, with everything on but labels; datatrove on "
        f"{speed['inputs']['sample']['json_mb']:.1f} MB of them in the same run. Ours is {speed['ratio']['processor']:.0f} times as fast in processor time "
        f"({speed['ratio']['wall']:.0f} in wall time; {speed['ratio']['processor without C4']:.0f} if datatrove leaves its C4 filter out). MB a second:",
        table("run", rates(speed)),
        "Not like for like: " + " ".join(speed["not_alike"]),
        "Where the time goes:",
        table("step", steps(speed)),
        f"On {big['workers']} workers, real text and copies of it, perturbed by 0 to 40 %; seconds a GB at the largest size are "
        f"{big['seconds_per_gb_ratio']:.2f} times those at the smallest:",
        table("text", scale(big["runs"])),
        f"Near-duplicates planted in {near['documents']:,} documents, against all pairs by brute force: {near['pairs_at_least_0.8']:,} pairs at 0.8 or more, "
        f"recall {near['recall']:.4f}, precision {near['precision']:.4f}. Estimates of MinHash against exact Jaccard on {estimate['pairs']:,} pairs: mean "
        f"error {estimate['full']['mean_absolute_error']:.3f} (8 bits: {estimate['8 bits']['mean_absolute_error']:.3f}), 1/√k = {estimate['one_by_root_k']:.3f}.",
        f"Keeping, against {kept['documents']} labels on `dirty` (positive: high or mid; 95 % intervals):",
        table("", quality(kept)),
        f"Held out: {kept['held_out']}.",
    ]
    parts += [f"*{name}: {remark}*" for name in names for remark in results[name].get("remarks", [])]
    return "\n\n".join(parts)


def sentence(chinese):
    speed, big = newest("clean-speed")["figures"], newest("clean-scale")["figures"]
    ours = [speed["rates"][name]["json_mb_s_processor"] for name in ("ours, all", "ours, all, again")]
    rate, times = sum(ours) / len(ours), speed["ratio"]["processor"]
    size, largest = max(((float(name), run) for name, run in big["runs"].items()), key=lambda pair: pair[0])
    minutes, memory = largest["seconds"] / 60, largest["memory_mb"] / 1e3
    if chinese:
        return (
            f"清洗（规范化、规则、广告、去重、脱敏、去污染、打乱，全部打开）：单核 {rate:.0f} MB/秒，是 datatrove 的 {times:.0f} 倍；"
            f"两核 {size:.0f} GB 用 {minutes:.0f} 分钟、{memory:.1f} GB 内存。全部数字：[docs/cleaning.md](docs/cleaning.md)。"
        )
    return (
        f"Cleaning (normalisation, rules, adverts, duplicates, masks, evaluation sets, shuffle, all on): {rate:.0f} MB/s on one core, "
        f"{times:.0f} times datatrove; {size:.0f} GB on two cores in {minutes:.0f} minutes and {memory:.1f} GB of memory. All figures: "
        "[docs/cleaning.md](docs/cleaning.md)."
    )


if __name__ == "__main__":
    put(ROOT / "docs" / "cleaning.md", document(), "cleaning")
    put(ROOT / "README.md", sentence(False), "cleaning")
    put(ROOT / "README.zh-CN.md", sentence(True), "cleaning")
