"""Conversations in the one form that training reads: ``{"conversations": [{"role": …, "content": …}, …]}``."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

Message = dict[str, str]

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"} | {r: r for r in ("user", "assistant", "system")}
_ANSWERS = ("output", "target", "response", "answer")
_QUESTIONS = ("instruction", "input", "prompt", "question", "query")


def small_talk(files: Mapping[str, bytes]) -> Iterator[list[Message] | None]:
    """Conversations of chatterbot's YAML files, in the order of their names; None for one of an odd structure.

    Speakers take turns, the user first; a last line without an answer is left out.
    """
    for name in sorted(files):
        for lines in yaml.safe_load(files[name])["conversations"]:
            if not isinstance(lines, list) or len(lines) < 2 or not all(isinstance(line, str) for line in lines):
                yield None
                continue
            turns = [line.strip() for line in lines[: len(lines) // 2 * 2]]
            roles = ("user", "assistant")
            yield [{"role": roles[i % 2], "content": line} for i, line in enumerate(turns)]


def to_conversation(row: Mapping[str, Any]) -> list[Message] | None:
    """A conversation from a record of a public instruction set; None when its form is not known or it has no answer.

    Known: ``conversations`` or ``messages`` of role and content (or from and value), and a question with an answer
    under the names that Alpaca, BELLE, Firefly and their like use (a question may have two parts).
    """
    messages = row.get("conversations") or row.get("messages")
    if isinstance(messages, list):
        found = [_message(m) for m in messages]
        whole = [m for m in found if m is not None]
        return whole if len(whole) == len(found) and any(m["role"] == "assistant" for m in whole) else None
    answer = next((row[key] for key in _ANSWERS if isinstance(row.get(key), str)), "")
    parts = [row[key].strip() for key in _QUESTIONS if isinstance(row.get(key), str)]
    question = "\n".join(part for part in parts if part)
    if not question or not answer.strip():
        return None
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]


def _message(message: Any) -> Message | None:
    if not isinstance(message, dict):
        return None
    role = _ROLES.get(str(message.get("role", message.get("from"))))
    content = message.get("content", message.get("value"))
    return {"role": role, "content": content} if role and isinstance(content, str) else None
