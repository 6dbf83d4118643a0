"""A tiny raw crawl, dialogues and a recipe over them: the whole life of a model in seconds, made by rule."""

import json
import random
from pathlib import Path

SUBJECTS = ["小明", "老师", "农民", "船长", "妹妹", "医生", "工人", "邻居", "学生", "将军"]
VERBS = ["喜欢", "看见", "忘记", "带来", "画出", "听说", "记得", "寻找", "卖掉", "修好"]
THINGS = ["月亮", "苹果", "旧书", "高山", "大海", "风筝", "铁锅", "春天", "故事", "小船"]
ENDS = ["，心里很高兴。", "，大家都笑了。", "，天就黑了。", "，雨还没有停。", "，谁也不知道。"]


def sentence(rng: random.Random) -> str:
    return (
        rng.choice(SUBJECTS) + rng.choice(VERBS) + rng.choice(SUBJECTS) + "的" + rng.choice(THINGS) + rng.choice(ENDS)
    )


def make_raw(folder: Path, documents: int = 400, dialogues: int = 60) -> Path:
    """Writes ``corpus/*.jsonl`` and ``dialogues/*.jsonl`` under ``folder``."""
    rng = random.Random(1)
    for part in range(2):
        rows = [{"text": "".join(sentence(rng) for _ in range(rng.randint(3, 9)))} for _ in range(documents // 2)]
        rows += [rows[0], {"text": "短"}, {"text": "english only, nothing chinese in this line at all " * 3}]
        write_jsonl(folder / "corpus" / f"part{part}.jsonl", rows)
    talks = []
    for _ in range(dialogues):
        who, what = rng.choice(SUBJECTS), rng.choice(THINGS)
        ask = {"role": "user", "content": f"{who}喜欢什么？"}
        talks.append({"conversations": [ask, {"role": "assistant", "content": f"{who}喜欢{what}。"}]})
    write_jsonl(folder / "dialogues" / "talk.jsonl", talks)
    return folder


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def overrides(raw: Path, runs: Path) -> list[str]:
    """``key=value`` settings under which all stages together take seconds."""
    return [
        f"run.dir={runs}",
        "run.name=tiny",
        f'clean.input=["{raw}/corpus"]',
        f'sft.input=["{raw}/dialogues"]',
        f'evaluate.questions=["{raw}/dialogues/talk.jsonl"]',
        "clean.workers=1",
        "tokenizer.vocab_size=400",
        "tokenize.valid_fraction=0.05",
        "model.dim=32",
        "model.num_layers=2",
        "model.num_heads=2",
        "model.head_dim=16",
        "model.ffn_dim=64",
        "pretrain.tokens=2560",
        "pretrain.lengths=[16, 32]",
        "pretrain.batch_tokens=128",
        "pretrain.micro_batch_tokens=64",
        "pretrain.warmup_steps=2",
        "pretrain.muon_step=10",
        "pretrain.checkpoint_every=4",
        "pretrain.valid_every=8",
        "pretrain.sample_every=8",
        "sft.tokens=1536",
        "sft.lengths=[64]",
        "sft.batch_tokens=256",
        "sft.micro_batch_tokens=256",
        "sft.checkpoint_every=2",
        "evaluate.valid_tokens=512",
        "evaluate.seq_len=32",
        "evaluate.max_questions=2",
        "evaluate.max_tokens=8",
    ]
