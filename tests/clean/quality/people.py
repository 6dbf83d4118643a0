"""Texts that people would call high, mid or low, made by rule, and label files of them."""

import random

import pyarrow as pa

from congling.clean.quality import labels as file
from congling.clean.quality.labels import Decision, text_hash

HIGH = [
    "清晨的雾还没有散",
    "老人把船推进河里",
    "孩子们沿着田埂跑去上学",
    "史书上记着那一年的大雪",
    "她合上书，想起了母亲的话",
]
MID = ["今天天气不错吧", "我觉得还可以啦", "东西收到了呢", "大家都来看看嘛", "随便聊聊近况"]
LOW = ["点击领取红包", "加微信免费送", "全场特价抢购", "扫码关注有惊喜", "转发抽奖快来"]


def texts(count, seed=0):
    """(texts, labels 0 … 2), as many of each, some of each other's sentences in them."""
    rng = random.Random(seed)
    found = []
    for n in range(count):
        own, others = (LOW, MID, HIGH)[n % 3], [*HIGH, *MID, *LOW]
        parts = [rng.choice(own if rng.random() < 0.8 else others) for _ in range(rng.randint(3, 9))]
        found.append("，".join(parts) + f"。{n}")
    return found, [n % 3 for n in range(count)]


def array(values):
    return pa.array(values, pa.large_string())


def decision(text, label, annotator="甲", corpus="a/clean@0123", **changes):
    row = {"text": text, "hash": text_hash(text), "id": 3, "source": "网", "label": label, "note": "", "time": 1.5}
    return Decision(**{**row, "annotator": annotator, "corpus": corpus, **changes})


def write_labels(path, count=60, **changes):
    """A label file of made texts."""
    for text, number in zip(*texts(count), strict=True):
        file.append(path, decision(text, file.LABELS[number], **changes))
    return path
