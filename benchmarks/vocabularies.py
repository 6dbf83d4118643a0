"""Vocabularies for comparison, all with the same face: encode(text) → ids, end_id, token_bytes [V]."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from congling import artifact
from congling.corpus.documents import make_batch
from congling.corpus.shards import ShardWriter
from congling.reporter import Reporter
from congling.tokenizer.run import run
from congling.tokenizer.tokenizer import Tokenizer


@dataclass
class Coder:
    encode: Any
    end_id: int
    token_bytes: np.ndarray  # raw bytes of each id
    seconds: float  # of training


def write_corpus(texts, folder):
    """The texts as the clean stage leaves them."""
    with artifact.stage(folder, "clean", {}, {}, 1), ShardWriter(folder, "corpus") as writer:
        for n in range(0, len(texts), 2000):
            writer.write(make_batch(texts[n : n + 2000], "benchmark"))
    return folder


def train_stage(clean, folder, config):
    """Runs the tokenizer stage on the corpus in ``clean``; (seconds, its summary)."""
    start = time.perf_counter()
    with artifact.stage(folder, "tokenizer", {"tokenizer": config}, {"clean": clean}, 1) as (now, summary):
        summary.update(run(now, Reporter(quiet=True), config))
    return time.perf_counter() - start, summary


def train_ours(texts, config):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "vocabulary"
        seconds, _ = train_stage(write_corpus(texts, Path(name) / "clean"), folder, config)
        tokenizer = Tokenizer.load(folder)
    return Coder(tokenizer.encode, tokenizer.end_id, tokenizer.token_bytes, seconds)


def train_sentencepiece(texts, size, threads=1):
    """Unigram, whitespace and all characters kept, digits single, bytes for the rest; whole documents, not cut."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "text"
        file.write_text("\n".join(texts) + "\n", "utf-8")
        start = time.perf_counter()
        sentencepiece.SentencePieceTrainer.train(
            input=str(file), model_prefix=str(Path(name) / "m"), vocab_size=size, model_type="unigram",
            num_threads=threads, byte_fallback=True, split_digits=True,
            character_coverage=0.9995 if size > 16384 else 0.995,  # more characters than that do not fit
            normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
            max_sentence_length=1 << 20, user_defined_symbols=["\n"], minloglevel=2,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        model = sentencepiece.SentencePieceProcessor(model_file=str(Path(name) / "m.model"))
    sizes = [
        1 if model.is_byte(i) else 0 if model.is_control(i) else len(model.id_to_piece(i).replace("▁", " ").encode())
        for i in range(model.vocab_size())
    ]
    return Coder(model.encode, model.eos_id(), np.array(sizes, np.int32), seconds)


def train_bpe(texts, size):
    """Byte-level BPE of Hugging Face tokenizers with GPT-2's splitting."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    model = Library(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    start = time.perf_counter()
    model.train_from_iterator(texts, trainer)
    seconds = time.perf_counter() - start
    pieces = sorted(model.get_vocab().items(), key=lambda item: item[1])
    sizes = np.array([0] + [len(piece) for piece, _ in pieces[1:]], np.int32)
    return Coder(lambda text: model.encode(text).ids, 0, sizes, seconds)


def train_bytepiece(texts, size):
    """bytepiece as its README has it: pieces of up to six characters, three times each at least."""
    from bytepiece import Tokenizer as Library
    from bytepiece import Trainer

    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        trainer = Trainer(order=6, max_vocab_size=size - 3, min_count=3)
        trainer.train(texts, workers=1, batch_size=1000)
        seconds = time.perf_counter() - start
        trainer.save(str(Path(name) / "m"))
        model = Library(str(Path(name) / "m"))
    sizes = [len(model.id_to_piece(i)) if i > 2 else 0 for i in range(model.vocab_size)]
    return Coder(model.encode, 2, np.array(sizes, np.int32), seconds)
