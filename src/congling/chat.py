"""The one owner of the chat template and of the loss mask.

ChatML with single-id markers, one message after another::

    <|im_start|>user\\n…<|im_end|>\\n<|im_start|>assistant\\n…<|im_end|>\\n

The markers are ids that no text can produce. The loss is on the assistant's text and its end marker, nothing else.

The seed's models (``congling import-seed``) know a template of their own, SEED §5: the markers are spelled in ordinary
characters, a space follows the role, and nothing stands between two messages. Which of the two a model knows is told by
its vocabulary: one without special ids is the seed's. There a text *can* produce markers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from congling.tokenizer.tokenizer import Tokenizer

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
ROLES = ("system", "user", "assistant")
IM_START, IM_END = "<|im_start|>", "<|im_end|>"


def render(
    messages: Sequence[Message], tokenizer: "Tokenizer", generation_prompt: bool = False
) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and for each id whether it is learned (assistant text and its end marker).

    generation_prompt: append the opening of an assistant message, for the model to go on from.
    Raises ValueError for an unknown role or a message without text.
    """
    start, behind_role, end, behind_message = _markers(tokenizer)
    ids: list[int] = []
    learned: list[bool] = []
    for message in messages:
        check_message(message)
        head = [*start, *tokenizer.encode(message["role"]), *behind_role]
        body = [*tokenizer.encode(message["content"]), *end]
        ids += head + body + behind_message
        learned += [False] * len(head) + [message["role"] == "assistant"] * len(body) + [False] * len(behind_message)
    if generation_prompt:
        opening = [*start, *tokenizer.encode("assistant"), *behind_role]
        ids += opening
        learned += [False] * len(opening)
    return ids, learned


def begin_ids(tokenizer: "Tokenizer") -> list[int]:
    """What every text begins after: the end of the document before it; the seed's models have none."""
    return [] if _is_seeds(tokenizer) else [tokenizer.end_id]


def stop_ids(tokenizer: "Tokenizer") -> set[int]:
    """Ids that end an answer."""
    return set() if _is_seeds(tokenizer) else {tokenizer.end_id, tokenizer.im_start_id, tokenizer.im_end_id}


def stop_strings(tokenizer: "Tokenizer") -> tuple[str, ...]:
    """Strings that end an answer in a chat: the markers, where they are spelled in ordinary characters."""
    return (IM_END, IM_START) if _is_seeds(tokenizer) else ()


def _markers(tokenizer: "Tokenizer") -> tuple[list[int], list[int], list[int], list[int]]:
    """Ids before the role, behind it, behind the content, and behind the message."""
    if _is_seeds(tokenizer):
        return tokenizer.encode(IM_START), tokenizer.encode(" "), tokenizer.encode(IM_END), []
    newline = tokenizer.encode("\n")
    return [tokenizer.im_start_id], newline, [tokenizer.im_end_id], newline


def _is_seeds(tokenizer: "Tokenizer") -> bool:
    return not getattr(tokenizer, "special", True)


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
