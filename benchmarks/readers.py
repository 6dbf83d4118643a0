"""Reading speed of every input form, in MB of text a second of one core, and the memory of the JSON array reader.

Measured on generated Chinese text (2 KB a document). Usage: python benchmarks/readers.py [megabytes]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from common import store
from congling.corpus.readers import read_documents

DOCUMENT = 700  # characters


def documents(megabytes):
    """A thousand different texts, repeated up to the size."""
    rng = np.random.default_rng(0)
    codes = rng.zipf(1.3, (1000, DOCUMENT)) % 6000 + 0x4E00
    codes[:, 19::20] = ord("，")
    texts = ["".join(map(chr, row)) for row in codes.tolist()]
    return [texts[i % 1000] for i in range(megabytes * 1_000_000 // len(texts[0].encode()))]


def write_files(folder, texts):
    rows = [{"id": i, "uniqueKey": "0" * 32, "title": t[:20], "content": t} for i, t in enumerate(texts)]
    lines = [orjson.dumps(row) for row in rows]
    (folder / "array.json").write_bytes(b"[\n" + b",\n".join(lines) + b"\n]")
    (folder / "lines.jsonl").write_bytes(b"\n".join(lines))
    (folder / "plain.txt").write_text("\n".join(texts), encoding="utf-8")
    pq.write_table(pa.table({"text": texts}), folder / "table.parquet", compression="zstd", use_dictionary=False)
    for kind, codec in (("gz", "gzip"), ("zst", "zstd")):
        with pa.output_stream(str(folder / f"lines.jsonl.{kind}"), compression=codec) as file:
            file.write((folder / "lines.jsonl").read_bytes())


def measure(file):
    """MB of text a second of processor time, best of three; the first batch (compilation) is not counted."""
    next(read_documents(file))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        size = sum(batch["text"].nbytes for batch in read_documents(file))
        seconds.append(time.process_time() - start)
    return {"text_mb_per_s": round(size / min(seconds) / 1e6), "file_mb": round(file.stat().st_size / 1e6)}


def growth_of_memory(file):
    """MB by which a fresh process grows while it reads the whole file."""
    code = f"""
import pathlib
from congling.corpus.readers import read_documents

def peak():  # kB; not ru_maxrss, which a child takes over from its parent
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

small = pathlib.Path({str(file)!r}).with_name("small.json")
small.write_text('[{{"text": "x"}}]')
list(read_documents(small))
before = peak()
for batch in read_documents({str(file)!r}):
    pass
print(peak() - before)
"""
    return round(int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) / 1024)


def main():
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, documents(megabytes))
        results = {file.name: measure(file) for file in sorted(folder.iterdir())}
        results["array.json"]["memory_growth_mb"] = growth_of_memory(folder / "array.json")
    store("readers", results)


if __name__ == "__main__":
    main()
