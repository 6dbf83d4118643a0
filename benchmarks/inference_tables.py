# ruff: noqa: E501
"""Writes the newest stored figures of inference between the markers of docs/serving.md and of both READMEs.

Usage: python benchmarks/inference_tables.py"""

from common import speed
from tokenizer_tables import ROOT, newest, put, table

OURS = ("ours kv", "ours absorbed")


def decode_rows(figures):
    rows = {}
    for case, row in figures.items():
        peer = row["llama.cpp"]
        for name in OURS:
            own = row[name]
            rows[f"{case.removesuffix(' threads')}, {own['cache']}"] = {
                "tokens/s at 18": own["tokens/s at 18"],
                "llama.cpp": peer["tokens/s at 18"],
                "times": round(own["tokens/s at 18"] / peer["tokens/s at 18"], 2),
                "at 1,024": own["tokens/s at 1024"],
                "of that at 18": f"{own['tokens/s at 1024'] / own['tokens/s at 18']:.0%}",
                "llama.cpp ": peer["tokens/s at 1024"],
                "prompt of 1,024, s": own["prompt of 1024, s"],
                " llama.cpp": peer["prompt of 1024, s"],
                "cache, bytes a token": f"{own['cache bytes/token']:,}",
            }
    return rows


def quantised(figures):
    reference = figures["reference"]
    return {
        name: {key: f"{row[key]:.4f} ({row[key] - reference[key]:+.4f})" for key in ("prompts", "decoding")}
        for name, row in figures.items()
        if name.startswith("weights")
    }


def caches(result):
    f = result["figures"]
    longest = {
        name: {
            "longest context": f"{row['tokens']:,}",
            "memory of the process, GB": row["peak, GB"],
            "a token there, s": row["seconds a token"],
        }
        for name, row in f["longest"].items()
    }
    parts = [
        "The two forms of the cache by length of the context, tokens/s on one thread, by turns (`benchmarks/cache.py`):",
        table("", f["speed"]),
        "The longest context in 8 GB with the weights, tried by filling the cache and computing tokens at its end:",
        table("", longest),
    ]
    if "lookup" in f:
        off, on = f["lookup"].values()
        parts.append(
            f"Prompt lookup (`engine.lookup=8`, greedy answers of the demo's model to held-out texts): {on['tokens a step']} tokens a step, "
            f"{on['accepted']} of {on['guessed']} guesses right, {on['tokens/s'] / off['tokens/s']:.2f} times the tokens/s."
        )
    return "\n\n".join(parts)


def overall(rounds):
    """Tokens a second of all rounds; median and worst of their times to the first token."""
    firsts = [r["first_token_ms"] for r in rounds]
    return speed(rounds), sorted(f["p50"] for f in firsts)[len(firsts) // 2], max(f["p95"] for f in firsts)


def server(result, long):
    f, memory, lasting = result["figures"], long["figures"]["memory"], long["figures"]["many"][0]
    one, many = overall(f["one"])[0], overall(f["many"])
    half = memory[len(memory) // 2 :]
    return (
        f"`congling serve` of `{f['model']}` in bf16 with random weights on two cores, client included, by turns: one streaming client {one:.0f} tokens/s, "
        f"{f['many'][0]['clients']} clients {many[0]:.0f} ({f['speedup']} times), {sum(r['errors'] for r in f['many'])} errors; time to the first token p50 {many[1]:.0f} ms, "
        f"p95 {many[2]:.0f} ms. Over {lasting['seconds']:.0f} s of {lasting['clients']} clients ({lasting['requests']:,} answers, "
        f"{lasting['errors']} errors; other work on the machine) memory: {memory[0]['rss_mb']:.0f} MB at the start, {half[0]['rss_mb']:.0f} MB at half, {memory[-1]['rss_mb']:.0f} MB at the end "
        "(it grows until the cache of 1 GiB is full of pages kept for later prompts)."
    )


def abuse(result):
    f = result["figures"]
    return (
        f"{f['requests']:,} requests of {len(f['kinds'])} kinds (broken, over-long, slow, left by their clients) in {f['seconds']:.0f} s, {f['wrong']} wrong statuses, "
        f"{sum(f['held_at_the_end'].values()):.0f} requests or pages held at the end; memory {f['before']['rss_mb']:.0f} → {f['after']['rss_mb']:.0f} MB, "
        f"threads {f['before']['threads']} → {f['after']['threads']}, files {f['before']['files']} → {f['after']['files']}"
    )


def document():
    decode, loss, cache, short, long, wild = (
        newest(n) for n in ("decode", "quantisation", "cache", "server", "server-long", "server-abuse")
    )
    parts = [
        f"{decode['date'][:10]}, {decode['hardware']['cpu']} ({', '.join(decode['hardware']['flags'])}), random weights, 65,536 ids, batch 1, one thread, llama.cpp (f16, q8_0, q4_0, a Llama of the same size) in the same run:",
        table("preset, weights, threads, cache", decode_rows(decode["figures"])),
        f"What precision costs, in held-out bits per byte of the demo's base model ({loss['figures']['settings']['tokens']:,} tokens as prompts; {loss['figures']['settings']['decode']} decoded one by one):",
        table("", quantised(loss["figures"])),
        caches(cache),
        server(short, long),
        f"Abuse ({wild['date'][:10]}): {abuse(wild)}.",
    ]
    return "\n\n".join(part for part in parts) + "".join(f"\n\n*{r}*" for r in decode.get("remarks", []))


def sentence(chinese):
    figures = newest("decode")["figures"]
    best = {p: figures[f"base-0.18b {p} 1 threads"] for p in ("bf16", "int8", "int4")}
    ours = " / ".join(f"{max(row[name]['tokens/s at 18'] for name in OURS):.0f}" for row in best.values())
    peer = " / ".join(f"{row['llama.cpp']['tokens/s at 18']:.0f}" for row in best.values())
    if chinese:
        return f"单核逐词生成（1.8 亿参数，bf16 / int8 / 4 位）：{ours} 词元/秒，llama.cpp 同样大小的模型 {peer}。全部数字：[docs/serving.md](docs/serving.md)。"
    return f"Decoding with 0.18 B parameters on one core, in bf16 / int8 / 4 bits: {ours} tokens/s, llama.cpp with a model of the same size {peer}. All figures: [docs/serving.md](docs/serving.md)."


if __name__ == "__main__":
    put(ROOT / "docs" / "serving.md", document(), "inference")
    put(ROOT / "README.md", sentence(False), "inference")
    put(ROOT / "README.zh-CN.md", sentence(True), "inference")
