"""Crawls of any size: versions and copies of the 0.26 GB of real text in ``../shared/data/{pretrain,dirty}``.

In version 0 documents are as found. In any other, each Chinese character is exchanged for another about as frequent,
and each ASCII letter for another (not in raw HTML), one to one throughout the version: lengths, lines, punctuation,
repetition, boilerplate within a version stay as they are, but versions have no phrase in common. Were sentences only
dealt anew, each would stand in 20 GB eighty times, and all of it would be boilerplate. (Digits, marks, and characters
that normalisation rewrites stay, so that it has as much to do.)

Three documents in ten are copies of others, of any earlier version: of letters 1/8 of a share are substituted or
deleted, of sentences 1/4 of it dropped and 1/4 swapped with the next; the share is even in 0 to 40 %, and 0 for one
copy in ten. About half of the copies then have a Jaccard similarity of 0.8 or more (5-shingles), a third are equal.
"""

import math
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
from numba import njit

from clean_speed import DATA
from congling.clean.characters import HAN, PLAIN, class_table, normalise_table
from congling.corpus.readers import find_files, read_documents

PROCESSES = 2
COPIES = 0.3  # of all documents
HALVES = 2  # files a version
WINDOW = 64  # characters of neighbouring rank are exchanged for each other
BUFFER = 16 << 20  # bytes, several times the largest document
TEXT, RAW_HTML = 0, 1  # how a document is exchanged
HTML_FILES = ("web_html_gne", "classical_novels_html_raw")
HEAD, TAIL = np.frombuffer(b'{"text":"', np.uint8), np.frombuffer(b'"}\n', np.uint8)


def save_source(folder):
    """``codes.npy`` (code points of all documents), ``offsets.npy`` [D + 1], ``kind.npy`` [D] (TEXT or RAW_HTML)."""
    texts, kinds = [], []
    for file in find_files([DATA / "pretrain", DATA / "dirty"]):
        for batch in read_documents(file):
            texts += batch["text"].to_pylist()
        kinds += [RAW_HTML if file.name.startswith(HTML_FILES) else TEXT] * (len(texts) - len(kinds))
    np.save(folder / "codes.npy", np.frombuffer("".join(texts).encode("utf-32-le"), np.int32))
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, texts)]))
    np.save(folder / "kind.npy", np.array(kinds))


def make(folder, gigabytes):
    """Writes the crawl; its documents, copies, MB of text and of JSON, and seconds."""
    folder.mkdir()
    codes, offsets = load(folder.parent, "codes"), load(folder.parent, "offsets")
    file_bytes = encoded_sizes(codes, offsets).sum() / HALVES / (1 - COPIES) * 0.97  # copies are a little shorter
    files = math.ceil(gigabytes * 1e9 / file_bytes)
    limit = int(gigabytes * 1e9 / files)  # of text a file
    start = time.perf_counter()
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        counts = np.sum(list(pool.map(partial(write_file, folder, limit), range(files))), axis=0)
    seconds = time.perf_counter() - start
    names = ("documents", "copies", "text_mb", "json_mb")
    made = dict(zip(names, (counts / (1, 1, 1e6, 1e6)).tolist(), strict=True))
    return {"files": files, **made, "made_in_s": seconds}


def write_file(folder, limit, number):
    """Writes a file of the crawl: half of the documents of a version, in random order among copies of others.

    Returns documents, copies, bytes of text, bytes of JSON.
    """
    codes, offsets, kind = (load(folder.parent, name) for name in ("codes", "offsets", "kind"))
    version, half = divmod(number, HALVES)
    random = np.random.default_rng((2, number))
    own = np.arange(half, len(kind), HALVES)
    copied = random.integers(0, len(kind), int(len(own) * COPIES / (1 - COPIES)))
    tables = np.concatenate([exchange(codes, version), exchange(codes, int(random.integers(0, version + 1)))])
    documents, is_copy = np.concatenate([own, copied]), np.arange(len(own) + len(copied)) >= len(own)
    share = random.uniform(0, 0.4, len(documents)) * is_copy * (random.random(len(documents)) > 0.1)
    order = random.permutation(len(documents))
    documents, is_copy, share = documents[order], is_copy[order], share[order]
    which = kind[documents] + 2 * is_copy
    seeds = random.integers(1, 1 << 62, len(documents), np.uint64)
    buffer, at, text, size = np.empty(BUFFER, np.uint8), 0, 0, 0
    with pa.CompressedOutputStream(str(folder / f"{number:05d}.jsonl.zst"), "zstd") as out:
        while at < len(documents) and text < limit:
            at, end, text = write_lines(codes, offsets, documents, at, tables, which, share, seeds, buffer, text, limit)
            out.write(pa.py_buffer(buffer[:end]))
            size += end
    return at, int(is_copy[:at].sum()), text, size


def exchange(codes, version):
    """Tables [2, 0x110000] int32 of what a character becomes in documents that are TEXT or RAW_HTML."""
    random = np.random.default_rng((1, version))
    tables = np.tile(np.arange(0x110000, dtype=np.int32), (2, 1))
    if version:
        ranked = frequent(codes)
        for begin in range(0, len(ranked), WINDOW):
            window = ranked[begin : begin + WINDOW]
            tables[:, window] = random.permutation(window)
        for letters in (np.arange(ord("a"), ord("z") + 1), np.arange(ord("A"), ord("Z") + 1)):
            tables[TEXT, letters] = random.permutation(letters)
    return tables


def frequent(codes):
    """Chinese characters of the source, the most frequent first, without those that cleaning rewrites."""
    counts = np.bincount(codes[:: max(1, len(codes) >> 24)], minlength=0x110000)
    usable = (class_table() == HAN) & (normalise_table() == PLAIN) & (counts > 0)
    return np.flatnonzero(usable)[np.argsort(-counts[usable], kind="stable")]


def load(folder, name):
    return np.load(folder / f"{name}.npy", mmap_mode="r")


@njit(nogil=True, cache=True)
def encoded_sizes(codes, offsets):
    """Bytes of UTF-8 of each document."""
    sizes = np.zeros(len(offsets) - 1, np.int64)
    for d in range(len(sizes)):
        for i in range(offsets[d], offsets[d + 1]):
            sizes[d] += 1 + (codes[i] > 0x7F) + (codes[i] > 0x7FF) + (codes[i] > 0xFFFF)
    return sizes


@njit(nogil=True, cache=True)
def write_lines(codes, offsets, documents, first, tables, which, share, seeds, out, text, limit):
    """Writes lines of JSON until ``out`` or the ``limit`` of text is full; (next document, bytes, bytes of text)."""
    at = 0
    for n in range(first, len(documents)):
        begin, end = offsets[documents[n]], offsets[documents[n] + 1]
        if at + 6 * (end - begin) + 32 > len(out) or text >= limit:
            return n, at, text
        for byte in HEAD:
            out[at] = byte
            at += 1
        state, table = seeds[n], tables[which[n]]
        while begin < end:
            middle = sentence_end(codes, begin, end)
            state = following(state)
            luck = unit(state)
            if luck < share[n] / 4:  # dropped
                begin = middle
                continue
            after = middle if luck > share[n] / 2 else sentence_end(codes, middle, end)
            state, at, size = write_letters(codes, middle, after, table, share[n] / 8, state, out, at)
            text += size
            state, at, size = write_letters(codes, begin, middle, table, share[n] / 8, state, out, at)
            text += size
            begin = after
        for byte in TAIL:
            out[at] = byte
            at += 1
    return len(documents), at, text


@njit(nogil=True, cache=True)
def sentence_end(codes, begin, end):
    for i in range(begin, end):
        c = codes[i]
        if c == 0x3002 or c == 0xFF01 or c == 0xFF1F or c == 0x0A:  # 。！？ and line feed
            return i + 1
    return end


@njit(nogil=True, cache=True)
def write_letters(codes, begin, end, table, rate, state, out, at):
    """Characters as UTF-8, escaped for JSON, of which ``rate`` are deleted or substituted; (state, end, bytes)."""
    size = 0
    for i in range(begin, end):
        c = table[codes[i]]
        if rate > 0:
            state = following(state)
            luck = unit(state)
            if luck < rate / 2:
                continue
            if luck < rate:
                c = table[codes[state % np.uint64(len(codes))]]
        before = at
        if c < 0x20:
            at = write_control(c, out, at)
            size += 1
            continue
        if c == 0x22 or c == 0x5C:
            out[at] = 0x5C
            at += 1
            before += 1
        at = write_utf8(c, out, at)
        size += at - before
    return state, at, size


@njit(nogil=True, cache=True)
def write_control(c, out, at):
    out[at] = 0x5C
    if c == 0x0A:
        out[at + 1] = 0x6E
        return at + 2
    out[at + 1] = 0x75
    out[at + 2] = out[at + 3] = 0x30
    for k in range(2):
        digit = c >> (4 - 4 * k) & 15
        out[at + 4 + k] = digit + (0x30 if digit < 10 else 0x57)
    return at + 6


@njit(nogil=True, cache=True, inline="always")
def write_utf8(c, out, at):
    if c < 0x80:
        out[at] = c
        return at + 1
    if c < 0x800:
        out[at] = 0xC0 | c >> 6
    elif c < 0x10000:
        out[at] = 0xE0 | c >> 12
        out[at + 1] = 0x80 | (c >> 6 & 0x3F)
        at += 1
    else:
        out[at] = 0xF0 | c >> 18
        out[at + 1] = 0x80 | (c >> 12 & 0x3F)
        out[at + 2] = 0x80 | (c >> 6 & 0x3F)
        at += 2
    out[at + 1] = 0x80 | (c & 0x3F)
    return at + 2


@njit(nogil=True, cache=True, inline="always")
def following(state):
    """The next state of xorshift64 (Marsaglia 2003)."""
    state ^= state << np.uint64(13)
    state ^= state >> np.uint64(7)
    return state ^ state << np.uint64(17)


@njit(nogil=True, cache=True, inline="always")
def unit(state):
    return np.float64(state >> np.uint64(11)) / 9007199254740992.0
