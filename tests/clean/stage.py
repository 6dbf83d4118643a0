"""Raw files with one planted document for each of several reasons, and the stage run on them."""

import io
import json
import random

from congling import artifact
from congling.clean.config import CleanConfig
from congling.clean.run import run
from congling.corpus.shards import read_shards
from congling.reporter import Reporter

GOOD, NEAR = 60, 6  # documents that stay (and one more), near-duplicates


def sentence(rng):
    return "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(rng.randrange(30, 120))) + "，好。"


def raw_files(folder):
    """Four files: 61 good documents, planted duplicates, and one document for each of several reasons."""
    rng = random.Random(0)
    good = [sentence(rng) + "\n" + sentence(rng) for _ in range(GOOD)]
    near = [text[:-1] + "了。" for text in good[:NEAR]]
    bad = [
        "短",
        "plain English text without any Chinese at all",
        "哈" * 40,
        "\ufffd" * 10 + good[0],
        "！" * 3 + "？" * 20,
    ]
    texts = good + near + [good[1], good[2].replace("。", "，")] + bad + ["　　" + sentence(rng) + "&nbsp;<br>完"]
    rng.shuffle(texts)
    folder.mkdir(parents=True)
    for number in range(4):
        rows = [json.dumps({"text": t, "source": "s"}, ensure_ascii=False).encode() for t in texts[number::4]]
        if number == 2:
            rows[3:3] = [b'{"text": broken', b'{"text": "\xff\xfe bytes"}', b'{"title": "no text"}']
        (folder / f"{number}.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    return folder


def run_stage(path, raw, **options):
    """The summary of the stage on ``raw``, without what the clock says."""
    config = CleanConfig(**{"input": (str(raw),), "on_error": "skip", "workers": 1, "traditional": "keep", **options})
    path.mkdir(exist_ok=True)
    stage = artifact.Stage("clean", path, {}, seed=1, key="", resumed=False)
    summary = run(stage, Reporter(io.StringIO()), config)
    return {k: v for k, v in summary.items() if k not in ("seconds", "processor_seconds")}


def corpus_bytes(path):
    """All files of the result by name."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def rows(path, prefix):
    return [row for batch in read_shards(path, prefix) for row in batch.to_pylist()]
