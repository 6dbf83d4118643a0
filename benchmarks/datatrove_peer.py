"""The peer of ``clean_speed.py``: datatrove's filters and MinHash on one JSONL.zst file, one process, each part timed.

Runs in an environment of its own (``clean_speed.PEER``), knows nothing of congling, and needs no network:

    python benchmarks/datatrove_peer.py INPUT_FOLDER SCRATCH_FOLDER RESULT.json

INPUT_FOLDER holds the JSONL.zst file. Words come from jieba through a blank spaCy pipeline, which is what datatrove
itself takes for ``cmn_Hani``. The limits are those that FineWeb 2 was made with (``configs/cmn_Hani.yml`` and
``fineweb-2-pipeline.py`` of huggingface/fineweb-2), short documents excepted: with its 50 words most reviews and poems
would go before the later filters saw them. C4 as shipped knows neither 。 nor words without spaces: those two rules are
off, its others stay, with 3 sentences for 5.
"""

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.writers import ParquetWriter
from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import load_word_tokenizer
from loguru import logger

LANGUAGE = Languages.mandarin_chinese__hani
STOP_WORDS = list("的年在月是和日了於·為有被人中为他與後也而由")
MINHASH = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
LIBRARIES = ("datatrove", "spacy", "jieba", "numpy", "pyarrow", "xxhash", "orjson")


def main(source, scratch, result):
    logger.remove()
    words = load_word_tokenizer(LANGUAGE)
    assert words.word_tokenize("今天天气很好") == ["今天天气", "很", "好"], "datatrove does not segment Chinese here"
    start_up = chain(few(source, scratch / "few"), scratch / "start")  # of five executors: taken off
    steps = without(chain(source, scratch / "all"), start_up)
    variants = {
        "filters without C4, as FineWeb 2": lambda: [
            *(JsonlReader(str(source)), *filters(c4=False)),
            ParquetWriter(str(scratch / "without")),
        ],
        "minhash signatures of all documents": lambda: [JsonlReader(str(source)), signatures(scratch / "every")],
    }
    alone = {name: timed(make, scratch / "log" / name) for name, make in variants.items()}
    found = {
        "language": LANGUAGE,
        "words": f"{type(words).__name__}, {words.language}, jieba's dictionary",
        "versions": {name: version(name) for name in LIBRARIES},
        "steps": steps,
        "variants": without(alone, dict(zip(variants, start_up.values(), strict=False))),
        "start_up": {clock: sum(step[clock] for step in start_up.values()) for clock in ("wall", "processor")},
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    result.write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")


def few(source, folder):
    """A folder with 20 documents of middling length, enough to load all there is to load."""
    folder.mkdir(parents=True)
    texts = [document.text for document in JsonlReader(str(source)).run()]
    lines = [json.dumps({"text": text}) for text in texts if 300 < len(text) < 600][:20]
    (folder / "few.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def without(steps, start_up):
    """``steps`` less the seconds of ``start_up``."""
    for name, step in steps.items():
        for clock in ("wall", "processor"):
            step[clock] = max(0.0, step[clock] - start_up[name][clock])
    return steps


def chain(source, folder):
    """Filters, then MinHash on what they leave; {step: seconds, and what datatrove itself counted a block}."""
    filtered, log = str(folder / "filtered"), folder / "log"
    sigs, buckets, remove, output = (str(folder / name) for name in ("signatures", "buckets", "remove", "output"))
    pipelines = {
        "filters": lambda: [JsonlReader(str(source)), *filters(), ParquetWriter(filtered)],
        "minhash signatures": lambda: [ParquetReader(filtered), signatures(folder)],
        "minhash buckets": lambda: [MinhashDedupBuckets(sigs, buckets, config=MINHASH)],
        "minhash clusters": lambda: [MinhashDedupCluster(buckets, remove, config=MINHASH)],
        "minhash filter": lambda: [ParquetReader(filtered), MinhashDedupFilter(remove), ParquetWriter(output)],
    }
    tasks = {"minhash buckets": MINHASH.num_buckets}  # its least
    return {name: timed(make, log / name, tasks.get(name, 1)) for name, make in pipelines.items()}


def filters(c4=True):
    line_rules = C4QualityFilter(
        language=LANGUAGE, filter_no_terminal_punct=False, min_words_per_line=-1, min_num_sentences=3
    )
    return [
        GopherRepetitionFilter(
            language=LANGUAGE,
            dup_line_frac=0.287,
            dup_para_frac=0,
            dup_line_char_frac=0,
            dup_para_char_frac=0,
            top_n_grams=((2, 0.256), (3, 0.201), (4, 0.171)),
            dup_n_grams=((5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127)),
        ),
        GopherQualityFilter(
            language=LANGUAGE,
            min_doc_words=5,
            min_avg_word_length=1,
            max_avg_word_length=5,
            max_non_alpha_words_ratio=0.735,
            min_stop_words=0,
            stop_words=STOP_WORDS,
        ),
        *([line_rules] if c4 else []),
        FineWebQualityFilter(
            language=LANGUAGE, line_punct_thr=0.106, short_line_thr=999, char_duplicates_ratio=0.1, new_line_ratio=0.178
        ),
    ]


def signatures(folder):
    return MinhashDedupSignature(str(folder / "signatures"), config=MINHASH, language=LANGUAGE)


def timed(make, log, tasks=1):
    """Runs the pipeline of ``make`` here: wall and processor seconds, and by block wall seconds and documents."""
    load_word_tokenizer.cache_clear()  # the executor copies its blocks, which a loaded tokenizer does not survive
    executor = LocalPipelineExecutor(make(), tasks=tasks, workers=1, logging_dir=str(log), skip_completed=False)
    wall, processor = time.perf_counter(), processor_seconds()
    stats = executor.run()
    found = {"wall": time.perf_counter() - wall, "processor": processor_seconds() - processor, "blocks": []}
    for block in stats.stats:
        names = ("documents", "total", "forwarded", "doc_len")
        counts = {name: block.stats[name].total for name in names if name in block.stats}
        found["blocks"].append({"name": block.name, "seconds": block.time_stats.total, **counts})
    return found


def processor_seconds():
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, who))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
