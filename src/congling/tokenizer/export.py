"""A vocabulary in the formats of others: a folder that ``transformers.AutoTokenizer`` reads.

``tokenizer.json`` holds a Unigram model with byte fallback. Its Viterbi keeps the first of equal paths, which begins
earliest, so it ends with the longest token, as here; its scores are our integers, whose sums doubles hold exactly. So
ids are equal on every text that is UTF-8, with these differences, all in what is asked and not in the segmentation:

* special tokens written in a text become special ids there, unless ``split_special_tokens=True`` is given;
* bytes that are not UTF-8, and lone surrogates, cannot be given to it at all.

With a vocabulary of the seed's kind ids are equal where no byte is uncovered. Elsewhere the seed's rule lets a token
stand on a position that no path reaches (SEED §2), and the library has no such rule.

SentencePiece is not offered: it adds scores in single precision, so on long lines it decides near ties at random.
"""

import json
from pathlib import Path
from typing import Any

from congling import artifact
from congling.tokenizer.config import WITH_ASCII
from congling.tokenizer.tokenizer import FILE, Tokenizer
from congling.tokenizer.vocabulary import SPECIALS, Vocabulary

FORMATS = ("hf",)
_NEVER = {"congling": -1e9, "seed": -1e3}  # score of an id that no text may give: below any path over its characters


def _chat_template(behind_role: str, behind_message: str) -> str:
    """As congling.chat renders a conversation, in Jinja; a test holds the two together."""
    return (
        "{%- for message in messages -%}"
        "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
        "{{- raise_exception('role must be system, user or assistant') -}}{%- endif -%}"
        f"{{{{- '<|im_start|>' + message['role'] + '{behind_role}' "
        f"+ message['content'] + '<|im_end|>{behind_message}' -}}}}"
        "{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{{{{- '<|im_start|>assistant{behind_role}' -}}}}{{%- endif -%}}"
    )


CHAT_TEMPLATE = _chat_template("\\n", "\\n")
SEED_TEMPLATE = _chat_template(" ", "")  # SEED §5
_BEGIN = SPECIALS[1]  # <|endoftext|>


def export(tokenizer: Tokenizer, folder: Path, format: str = "hf", with_model: bool = False) -> list[Path]:
    """Writes the files of ``format`` into ``folder`` (made if need be); returns them.

    with_model: it goes beside a model. Texts and chats then begin after <|endoftext|>, as those did that the model
    learned from, and a model of the seed's gets the seed's chat template.
    Raises ValueError for another format, a folder that holds something else, or a vocabulary whose ids the library
    could give for text: one that lacks a character of ``<0x41>`` or ``<|im_start|>``, or has such a name as a piece.
    """
    if format not in FORMATS:
        raise ValueError(f"format = {format}: must be {', '.join(FORMATS)}; sentencepiece cannot be exact (docs)")
    names = _names(tokenizer.vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "tokenizer.json": _tokenizer_json(tokenizer.vocabulary, names, with_model),
        "tokenizer_config.json": _config(tokenizer.vocabulary, with_model),
    }
    strange = sorted(path.name for path in folder.iterdir() if path.name not in (*files, "chat_template.jinja", FILE))
    if strange:
        raise ValueError(f"{folder}: holds {strange[0]}; give a new or an empty folder")
    for name, content in files.items():
        artifact.atomic_write(folder / name, (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8"))
    tokenizer.save(folder)
    written = [folder / name for name in (*files, FILE)]
    if template := _template(tokenizer.vocabulary, with_model):
        artifact.atomic_write(folder / "chat_template.jinja", template.encode("utf-8"))
        written.append(folder / "chat_template.jinja")
    return written


def _template(v: Vocabulary, with_model: bool) -> str | None:
    if v.kind == "seed":
        return SEED_TEMPLATE if with_model else None
    return "{{- bos_token -}}" + CHAT_TEMPLATE if with_model else CHAT_TEMPLATE


def _names(v: Vocabulary) -> list[str]:
    """Of the ids before the pieces."""
    numbers = range(256) if v.kind == "congling" else range(255, -1, -1)
    names = [*(SPECIALS if v.kind == "congling" else ()), *(f"<0x{number:02X}>" for number in numbers)]
    pieces = set(v.pieces)
    same = pieces.intersection(names)
    missing = set("".join(names)) - pieces
    if same or missing:
        problem = f"has a piece {min(same)!r}" if same else f"has no piece for {min(missing)!r}"
        raise ValueError(
            f"the vocabulary {problem}, so the library would take written names like <0x41> for ids; train one of "
            f"at least {WITH_ASCII} ids, which always has all of ASCII"
        )
    return names


def _tokenizer_json(v: Vocabulary, names: list[str], with_model: bool) -> dict[str, Any]:
    never = _NEVER[v.kind]
    rows = [[name, never] for name in names] + [
        [piece, float(score)] for piece, score in zip(v.pieces, v.scores, strict=True)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, name) for number, name in enumerate(names) if name in SPECIALS],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": _begins(names) if with_model and v.kind == "congling" else None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": rows, "byte_fallback": True},
    }


def _begins(names: list[str]) -> dict[str, Any]:
    """The library's way to put <|endoftext|> before each text."""
    begin = {"SpecialToken": {"id": _BEGIN, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    token = {"id": _BEGIN, "ids": [names.index(_BEGIN)], "tokens": [_BEGIN]}
    pair = [begin, first, second]
    return {"type": "TemplateProcessing", "single": pair[:2], "pair": pair, "special_tokens": {_BEGIN: token}}


def _added(number: int, name: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": name, **flags}


def _config(v: Vocabulary, with_model: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if v.kind == "congling":
        config |= {"pad_token": "<|pad|>", "eos_token": "<|im_end|>", "bos_token": _BEGIN}
    if with_model:
        config["padding_side"] = "left"  # what a batch to be continued wants
    template = _template(v, with_model)
    return {**config, "chat_template": template} if template else config
