"""Pass 2, and what else pass 3 must know: boilerplate of this corpus, evaluation sets, the classifier.

Counted are the documents that stay, one copy of each: lines that stand in many of them, and, in a random sample,
phrases that do. A task a part leaves ``<part>.lines.npy``, ``.sample.npy``, ``.texts.arrow``; what is made of them
goes to the folder of evidence, which ``judges.Judges`` loads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean import lines, repeats
from congling.clean.adverts import Boilerplate, read_list
from congling.clean.compare import Compared, Parts
from congling.clean.config import CleanConfig
from congling.clean.decontaminate import EvalGrams
from congling.clean.duplicates.fingerprint import load_fingerprints, load_hashes
from congling.clean.finish import shuffle_key
from congling.clean.letters import STOP, Spelled, letters_of
from congling.clean.normalise import normalise
from congling.clean.parts import STAYS
from congling.clean.privacy import mask
from congling.clean.quality.labels import text_hash
from congling.clean.quality.prepare import prepare as prepare_quality
from congling.corpus.executor import Pool
from congling.corpus.shards import read_shard
from congling.reporter import Reporter

_QUALITY_SAMPLE = 20_000  # documents of which quantiles of quality are taken
_NAMED_LINES = 300  # the worst, whose text is looked up for people
_LOOKED_THROUGH = 2  # parts, for them


@dataclass(frozen=True)
class CountJob:
    """What all tasks of the pass share. Rates are the shares of documents that samples take."""

    parts: Parts
    compared: Compared
    config: CleanConfig
    folder: Path
    seed: int
    advert_rate: float
    quality_rate: float


def prepare(
    parts: Parts,
    compared: Compared,
    evidence: Path,
    folder: Path,
    config: CleanConfig,
    seed: int,
    pool: Pool,
    reporter: Reporter,
) -> None:
    """Writes the evidence unless it is there; ``limits.npy`` is written last."""
    if (evidence / "limits.npy").exists():
        return
    evidence.mkdir(parents=True, exist_ok=True)
    if config.decontaminate:
        EvalGrams.build(config.decontaminate, config.decontaminate_gram).save(evidence / "evals.npz")
    documents, size = _staying(parts, compared)
    wanted = max(_QUALITY_SAMPLE, config.teacher_documents if config.teacher else 0) if config.labels else 0
    rates = [(config.advert_sample_mb << 20) / max(size, 1), wanted / max(documents, 1)]
    job = CountJob(parts, compared, config, folder, seed, *rates)
    if config.adverts != "off" or wanted:
        with reporter.progress("boilerplate", sum(c["bytes_normalised"] for c in parts.counts), "B") as bar:
            for done in pool.map(partial(count_part, job), range(len(parts.files))):
                bar.advance(done)
    if config.adverts != "off":
        boilerplate = _find(job, documents)
        boilerplate.save(evidence / "boilerplate.npz")
        boilerplate.save_list(evidence / "adverts.tsv")
    if wanted:
        prepare_quality(config, _sample(job), evidence, seed, reporter, partial(_as_corpus, config=config))
    with atomic_open(evidence / "limits.npy") as file:
        np.save(file, compared.limits)


def _staying(parts: Parts, compared: Compared) -> tuple[int, int]:
    """Documents that stay so far, and about how many bytes of text they have."""
    documents, characters = 0, 0
    for i, file in enumerate(parts.files):  # whole numbers: the sum does not depend on how the input was cut
        staying = compared.reason[parts.slice(i)] == STAYS
        documents += int(np.count_nonzero(staying))
        characters += int(load_fingerprints(file).lengths[staying, 0].sum(dtype=np.int64))
    return documents, 3 * characters


def count_part(job: CountJob, number: int) -> int:
    """Writes what a part adds to the counts, unless it is there; returns its bytes of text."""
    done = job.folder / f"{number:05d}.lines.npy"
    if not done.exists():
        hashes: list[np.ndarray] = []
        adverts: list[Spelled] = []
        texts: list[pa.Array] = []
        for text, random in _staying_texts(job, number):
            hashes.append(lines.hash_lines(text, job.config.line_letters))
            adverts.append(letters_of(text, STOP, random < job.advert_rate))
            if job.quality_rate:
                texts.append(text.filter(pa.array(random < job.quality_rate)))
        repeats.save_sample(job.folder / f"{number:05d}.sample.npy", adverts)
        table = pa.table({"text": pa.chunked_array(texts, pa.large_string())})
        with atomic_open(job.folder / f"{number:05d}.texts.arrow") as file, pa.ipc.new_file(file, table.schema) as out:
            out.write_table(table)
        lines.save_hashes(done, hashes)
    return int(job.parts.counts[number]["bytes_normalised"])


def _staying_texts(job: CountJob, number: int) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Texts of a part that stay, with a random number below 1 each, a hash of the text."""
    reason = job.compared.reason[job.parts.slice(number)]
    random = shuffle_key(np.asarray(load_hashes(job.parts.files[number])), job.seed) / 2.0**64
    begin = 0
    for batch in read_shard(job.parts.files[number]):
        stays = reason[begin : begin + len(batch)] == STAYS
        yield batch["text"].filter(pa.array(stays)), random[begin : begin + len(batch)][stays]
        begin += len(batch)


def _find(job: CountJob, documents: int) -> Boilerplate:
    """documents: those that stay."""
    config, numbers = job.config, range(len(job.parts.files))
    if config.advert_list:
        nothing = np.empty(0, np.uint64), np.empty(0, np.int64)
        return Boilerplate(read_list(Path(config.advert_list)), *nothing, config.line_letters, {})
    samples = [job.folder / f"{i:05d}.sample.npy" for i in numbers]
    of_sample = _least(config, int(documents * min(1.0, job.advert_rate)))
    phrases = repeats.find_repeats(samples, of_sample, config.advert_letters, config.line_letters)
    hashes = [job.folder / f"{i:05d}.lines.npy" for i in numbers]
    found, counts = lines.frequent_lines(hashes, _least(config, documents))
    worst = np.sort(np.argsort(-counts, kind="stable")[:_NAMED_LINES])
    return Boilerplate(phrases, found, counts, config.line_letters, _named(job, worst, found[worst]))


def _named(job: CountJob, places: NDArray[np.int64], hashes: NDArray[np.uint64]) -> dict[int, str]:
    """The texts of some lines by their places, as far as they stand in the first parts."""
    named: dict[int, str] = {}
    for i in range(min(len(job.parts.files), _LOOKED_THROUGH)):
        for text, _ in _staying_texts(job, i):
            if len(named) == len(places):
                return named
            texts = lines.find_lines(text, hashes, job.config.line_letters)
            named = {int(places[place]): line for place, line in texts.items()} | named
    return named


def _least(config: CleanConfig, documents: int) -> int:
    """In how many of so many documents boilerplate stands at least."""
    return max(config.advert_documents, int(documents * config.advert_share))


def _sample(job: CountJob) -> pa.Array:
    """The random texts of all parts, in an order that no file decides."""
    texts: list[str] = []
    for i in range(len(job.parts.files)):
        with pa.ipc.open_file(job.folder / f"{i:05d}.texts.arrow") as file:
            texts += file.read_all()["text"].to_pylist()
    return pa.array(sorted(texts, key=text_hash), pa.large_string())


def _as_corpus(text: pa.Array, config: CleanConfig) -> pa.Array:
    return mask(normalise(text, config).text, config.mask)[0]
