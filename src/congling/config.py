"""Strict configuration: a TOML recipe plus ``key=value`` overrides become one frozen pydantic model.

A recipe has one section a stage (``[clean]``, ``[pretrain]`` …). Every field carries its own help text, so that
``congling <command> --help`` is generated. Whatever is wrong is one line that names the key, what was given and what
is allowed (``ConfigError``; the command line exits with 2).
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo


class ConfigError(ValueError):
    """A recipe or a ``key=value`` that cannot be used; the message is one line for the user."""


class Config(BaseModel):
    """Base of every section: unknown keys and wrong types are errors, instances never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, protected_namespaces=())


C = TypeVar("C", bound=Config)


def option(default: Any, help: str, *, affects_result: bool = True, **constraints: Any) -> Any:
    """A field with its help text; ``affects_result=False`` for keys such as ``workers`` that change only speed or
    display: changing them does not make a finished stage run again."""
    extra: Any = None if affects_result else {"affects_result": False}
    return Field(default, description=help, json_schema_extra=extra, **constraints)


def load(config_class: type[C], recipe: Path | None, overrides: Sequence[str], section: str | None = None) -> C:
    """Reads ``recipe`` (TOML; None: all defaults), applies ``key=value`` overrides and validates.

    An override's key is ``section.field``, or a bare ``field`` of ``section`` (the command's own). Its value is read
    as a TOML value, else as a plain string. Raises ``ConfigError``.
    """
    data: dict[str, Any] = {} if recipe is None else _read_toml(recipe)
    texts: dict[tuple[str, ...], str] = {}
    for item in overrides:
        path, text = _split_override(item, config_class, section)
        _assign(data, path, _parse_value(text), item)
        texts[path] = text
    where = str(recipe) if recipe else "the command line"
    try:
        return _validate(config_class, data)
    except ValidationError as error:
        # `name=123` is meant as text where the field is text.
        retry = False
        for problem in error.errors():
            path = tuple(str(p) for p in problem["loc"])
            if problem["type"] == "string_type" and path in texts:
                _assign(data, path, texts[path], texts[path])
                retry = True
        if retry:
            try:
                return _validate(config_class, data)
            except ValidationError as second:
                error = second
        raise ConfigError(_explain(error, config_class, where)) from None


def result_key(config: Config) -> dict[str, Any]:
    """The fields of ``config`` that can change the result, as plain JSON data (for the key of a stage)."""
    return _strip(config)


def to_toml(sections: Mapping[str, Config]) -> str:
    """The resolved configuration as TOML text: what ``config.toml`` in a run folder holds."""
    lines: list[str] = []
    for name, config in sections.items():
        lines.append(f"[{name}]")
        for key, value in json.loads(config.model_dump_json(by_alias=True)).items():
            if value is not None:
                lines.append(f"{key} = {_toml_value(value)}")
        lines.append("")
    return "\n".join(lines)


def describe(config_class: type[Config]) -> list[tuple[str, str, str, str]]:
    """(key, type, default, help) for every field: the source of ``--help``."""
    rows = []
    for key, field in config_class.model_fields.items():
        default = (
            "required" if field.is_required() else _toml_value(_plain(field.get_default(call_default_factory=True)))
        )
        rows.append((field.alias or key, _type_name(field), default, field.description or ""))
    return rows


def _validate(config_class: type[C], data: Mapping[str, Any]) -> C:
    # Through JSON: strict there still takes a list for a tuple and text for a path, which is what TOML can write.
    return config_class.model_validate_json(json.dumps(data, default=str))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"recipe {path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"recipe {path}: is a directory, a .toml file is needed") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe {path}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {path}: not valid TOML: {error}") from None


def _split_override(item: str, config_class: type[Config], section: str | None) -> tuple[tuple[str, ...], str]:
    key, separator, text = item.partition("=")
    if not separator or not key:
        raise ConfigError(f"{item!r}: expected key=value")
    path = tuple(key.split("."))
    if len(path) == 1 and section is not None:
        path = (section, *path)
    return path, text


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(data: dict[str, Any], path: tuple[str, ...], value: Any, item: str) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{item!r}: {part} is not a section")
    data[path[-1]] = value


def _explain(error: ValidationError, config_class: type[Config], where: str) -> str:
    problem = error.errors()[0]
    loc = [str(p) for p in problem["loc"]]
    key = ".".join(loc)
    if problem["type"] == "extra_forbidden":
        owner = _class_at(config_class, loc[:-1])
        known = ", ".join(field.alias or name for name, field in owner.model_fields.items()) if owner else ""
        return f"{where}: unknown key {key}; known here: {known}"
    given = problem.get("input")
    shown = json.dumps(given, ensure_ascii=False, default=str) if not isinstance(given, BaseModel) else "…"
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {key} = {shown[:80]}: {message}{more}" if key else f"{where}: {message}{more}"


def _class_at(config_class: type[Config], path: Sequence[str]) -> type[Config] | None:
    current: Any = config_class
    for part in path:
        field = current.model_fields.get(part)
        current = field.annotation if field else None
        if not (isinstance(current, type) and issubclass(current, Config)):
            return None
    return current


def _strip(config: Config) -> dict[str, Any]:
    plain = json.loads(config.model_dump_json(by_alias=True))
    for key, field in type(config).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("affects_result") is False:
            del plain[field.alias or key]
    return plain


def _type_name(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    if getattr(annotation, "__name__", "") == "Literal" or str(annotation).startswith("typing.Literal"):
        return " | ".join(str(a) for a in get_args(annotation))
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("pathlib.", "")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str)) if value is not None else None


def _toml_value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_quoted(k)} = {_toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # the one character JSON allows and TOML not
