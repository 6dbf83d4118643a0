"""The model card (README.md) of an export: Chinese and English, its figures taken from the manifests of the run."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from congling import __version__, artifact
from congling.interop.config import ExportConfig
from congling.interop.lineage import Manifest

Row = tuple[str, str]  # label in both languages, value
_SAMPLES, _REASONS = 3, 8  # how many of each a card shows

_USE = {
    "hf": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)
{rest}
```""",
    "space": "`app.py`：对话页面 · the demo page (`pip install -r requirements.txt && python app.py`)",
}
_CHAT = """messages = [{"role": "user", "content": "你好"}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**ids, max_new_tokens=64)
print(tokenizer.decode(answer[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))"""
_TEXT = """ids = tokenizer("从前", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0], skip_special_tokens=True))"""
_LIMITS = """小模型会编造事实，会重复，也会写出不当的话；不可用于需要正确答案的场合。
训练文本虽经清洗，仍可能含有个人信息与偏见。

A small model invents facts, repeats itself and may write what is not proper; do not use it where answers must be right.
Its text was cleaned, but may still hold personal data and bias."""


def write_card(folder: Path, name: str, lineage: Mapping[str, Manifest], config: ExportConfig) -> None:
    """Writes README.md into ``folder``; a Space's keeps the front matter that it has there."""
    card = folder / "README.md"
    front = card.read_text(encoding="utf-8") if card.exists() else _front_matter(lineage, config)
    artifact.atomic_write(card, (front + "\n" + _body(name, lineage, config)).encode("utf-8"))


def _front_matter(lineage: Mapping[str, Manifest], config: ExportConfig) -> str:
    lines = ["language:", "- zh", "library_name: transformers", "pipeline_tag: text-generation"]
    if config.licence:
        lines.append(f"license: {json.dumps(config.licence)}")
    repositories = sorted({m["summary"]["repository"] for m in _of(lineage, "fetch") if "repository" in m["summary"]})
    if repositories:
        lines += ["datasets:", *(f"- {repository}" for repository in repositories)]
    return "\n".join(["---", *lines, "tags:", "- congling", "- custom_code", "---", ""])


def _body(name: str, lineage: Mapping[str, Manifest], config: ExportConfig) -> str:
    tuned = "sft" in lineage or not lineage
    use = _USE[config.format].replace("{name}", name).replace("{rest}", _CHAT if tuned else _TEXT)
    parts = [
        f"# {name}",
        f"从零训练的中文语言模型，由 congling {__version__} 导出。\n\n"
        f"A Chinese language model trained from zero, exported by congling {__version__}.",
        f"## 用法 · Use\n\n{use}",
        "## 谱系 · Lineage",
    ]
    parts += [text for heading, rows in _SECTIONS if (text := _section(heading, rows(lineage)))] if lineage else []
    if not lineage:
        parts.append(
            "此模型旁没有记录其来历的 manifest.json（例如由他处导入）。\n\n"
            "No manifest beside this model says where it comes from (it was imported, or copied alone)."
        )
    parts += [_samples(lineage), f"## 许可 · Licence\n\n{_licence(lineage, config)}", f"## 局限 · Limits\n\n{_LIMITS}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(heading: str, rows: Iterator[Row]) -> str:
    lines = [f"| {label} | {value} |" for label, value in rows]
    return "\n".join([f"### {heading}\n", "| | |", "|---|---|", *lines]) if lines else ""


# -- stages --------------------------------------------------------------------------------------------------------


def _of(lineage: Mapping[str, Manifest], stage: str) -> list[Manifest]:
    """Manifests of finished stages of that name; a checkpoint's has no summary."""
    return [m for name, m in lineage.items() if name.partition(" ")[0] == stage and "summary" in m]


def _data(lineage: Mapping[str, Manifest]) -> Iterator[Row]:
    for manifest in _of(lineage, "fetch"):
        summary, wanted = manifest["summary"], manifest.get("config", {}).get("fetch", {})
        yield "数据集 · data set", _plain(wanted.get("dataset", "?"))
        if "repository" in summary:
            yield "仓库 · repository", f"{_plain(summary['repository'])} @ {_plain(summary.get('revision', '?'))}"
        for package in summary.get("packages", []):
            version, licence = _plain(package["version"]), _plain(package["licence"])
            yield f"来源 · source: {_plain(package['name'])}", f"{version}；许可 · licence: {licence}"
    for manifest in _of(lineage, "clean"):
        summary = manifest["summary"]
        yield "清洗前 · before cleaning", _amount(summary, "documents_in", "bytes_in")
        yield "清洗后 · after cleaning", _amount(summary, "documents_out", "bytes_out")
        reasons = sorted(summary.get("reasons", {}).items(), key=lambda row: -row[1]["documents"])
        for reason, counts in reasons[:_REASONS]:
            yield f"剔除 · dropped: {_plain(reason)}", f"{counts['documents']:,}"


def _vocabulary(lineage: Mapping[str, Manifest]) -> Iterator[Row]:
    for manifest in _of(lineage, "tokenizer"):
        yield "词表 · ids", f"{manifest['summary']['size']:,}"
    for manifest in _of(lineage, "tokenize"):
        summary = manifest["summary"]
        yield "训练词元 · tokens to learn from", f"{summary['train']['tokens']:,}"
        yield "字节/词元 · bytes a token", f"{summary['bytes_per_token']:.3f}"


def _training(stage: str) -> Callable[[Mapping[str, Manifest]], Iterator[Row]]:
    names = {
        "parameters": "参数 · parameters", "tokens": "词元 · tokens seen", "epochs": "遍数 · epochs",
        "dialogues": "对话 · dialogues", "steps": "步数 · steps", "loss": "损失（留出）· held-out loss, nats a token",
        "bits_per_byte": "比特/字节（留出）· held-out bits a byte", "precision": "精度 · precision",
    }  # fmt: skip

    def rows(lineage: Mapping[str, Manifest]) -> Iterator[Row]:
        for manifest in _of(lineage, stage):
            summary, wanted = manifest["summary"], manifest.get("config", {}).get(stage, {})
            for key, label in names.items():
                if summary.get(key) is not None:
                    yield label, _number(summary[key])
            if wanted.get("lengths"):
                yield "序列长度 · sequence lengths", " → ".join(map(str, wanted["lengths"]))
            yield "用时 · seconds", f"{manifest.get('seconds', 0):,.0f}"
            yield "种子、哈希 · seed, hash", f"{manifest.get('seed')}, `{manifest.get('hash')}`"

    return rows


def _evaluation(lineage: Mapping[str, Manifest]) -> Iterator[Row]:
    for manifest in _of(lineage, "evaluate"):
        summary = manifest["summary"]
        for kind, label in (("base", "基座 · base"), ("chat", "对话 · chat")):
            if kind in summary:
                yield f"{label}: 比特/字节 · bits a byte", _number(summary[kind]["bits_per_byte"])
        if "questions" in summary:
            questions = summary["questions"]
            value = f"{_number(questions['bigram_f1'])} ({questions['count']})"
            yield "问答二元组 F1（题数）· bigram F1 of answers (questions)", value


_SECTIONS: tuple[tuple[str, Callable[[Mapping[str, Manifest]], Iterator[Row]]], ...] = (
    ("数据 · Data", _data),
    ("词表 · Vocabulary", _vocabulary),
    ("预训练 · Pretraining", _training("pretrain")),
    ("指令微调 · Instruction tuning", _training("sft")),
    ("评测 · Evaluation", _evaluation),
)


def _samples(lineage: Mapping[str, Manifest]) -> str:
    found = [sample for m in _of(lineage, "evaluate") for sample in m["summary"].get("samples", [])][:_SAMPLES]
    lines = [f"> **{_plain(sample['prompt'])}**\n>\n> {_plain(sample['text'])}" for sample in found]
    return "## 样例 · Samples\n\n" + "\n\n".join(lines) if lines else ""


def _licence(lineage: Mapping[str, Manifest], config: ExportConfig) -> str:
    packages = [p for m in _of(lineage, "fetch") for p in m["summary"].get("packages", [])]
    stated = sorted({f"{_plain(p['name'])} ({_plain(p['licence'])})" for p in packages})
    own = f"模型 · model: {_plain(config.licence)}" if config.licence else "模型许可未声明 · the model's is not stated"
    data = (
        ", ".join(stated) if stated else "来源许可未知，请自查 · those of the sources are not known here: look them up"
    )
    return f"{own}\n\n数据 · data: {data}"


# -- words ---------------------------------------------------------------------------------------------------------


def _amount(summary: Mapping[str, Any], documents: str, size: str) -> str:
    return f"{summary.get(documents, 0):,} 篇 · documents, {summary.get(size, 0) / 1e6:,.1f} MB"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    """One line of text in which nothing is markup."""
    text = " ".join(str(value).split())
    return "".join(f"&#{ord(c)};" if c in "\\`*[]<>|#&" else c for c in text)
