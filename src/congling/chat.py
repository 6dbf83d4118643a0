"""The one owner of the chat template and of the loss mask.

ChatML with single-id markers, one message after another::

    <|im_start|>user\\n…<|im_end|>\\n<|im_start|>assistant\\n…<|im_end|>\\n

The markers are ids that no text can produce. The loss is on the assistant's text and its end marker, nothing else.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from congling.tokenizer.tokenizer import Tokenizer

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
ROLES = ("system", "user", "assistant")


def render(
    messages: Sequence[Message], tokenizer: "Tokenizer", generation_prompt: bool = False
) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and for each id whether it is learned (assistant text and its end marker).

    generation_prompt: append the opening of an assistant message, for the model to go on from.
    Raises ValueError for an unknown role or a message without text.
    """
    ids: list[int] = []
    learned: list[bool] = []
    newline = tokenizer.encode("\n")
    for message in messages:
        check_message(message)
        head = [tokenizer.im_start_id, *tokenizer.encode(message["role"]), *newline]
        body = [*tokenizer.encode(message["content"]), tokenizer.im_end_id]
        ids += head + body + newline
        learned += [False] * len(head) + [message["role"] == "assistant"] * len(body) + [False] * len(newline)
    if generation_prompt:
        opening = [tokenizer.im_start_id, *tokenizer.encode("assistant"), *newline]
        ids += opening
        learned += [False] * len(opening)
    return ids, learned


def check_message(message: Message) -> None:
    """Raises ValueError unless ``message`` has a known role and text."""
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        given = message.get("role") if isinstance(message, Mapping) else message
        raise ValueError(f"message with role {given!r}: must be one of {', '.join(ROLES)}")
    if not isinstance(message.get("content"), str):
        raise ValueError(f"message of role {message['role']!r}: content must be text, got {message.get('content')!r}")


def read_dialogues(path: Path) -> Iterator[list[dict[str, str]]]:
    """Conversations of a JSONL file: a ``{"conversations": [{"role": …, "content": …}, …]}`` a line.

    Raises ValueError that names file and line for anything else; blank lines are allowed.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parse_line(line, f"{path}:{number}")


def _parse_line(line: bytes, where: str) -> list[dict[str, str]]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 at byte {error.start} of the line; convert the file to UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: broken JSON ({error.msg}, column {error.colno}); mend or delete the line") from None
    messages = row.get("conversations") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError(f'{where}: no conversation; each line must be {{"conversations": [{{"role", "content"}}, …]}}')
    for message in messages:
        try:
            check_message(message)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return messages
