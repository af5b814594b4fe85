"""YAML to a typed struct, with one line for every mistake.

Knows msgspec. Does not know YAML (see plain_yaml.py) nor any particular configuration: those structs stand
beside the code that they configure.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from dualkd.configs import plain_yaml
from dualkd.configs.plain_yaml import Document, KeyPath, PlainYamlError

T = TypeVar("T")
Mistakes = Iterable[tuple[KeyPath, str]]

MAX_TOLD = 100  # mistakes; who has more need not read them all at once
MAX_SHOWN = 80  # characters of a value or a key


class ConfigError(Exception):
    """A configuration that cannot be used. `mistakes` holds one line for each: file, key path, value, cause."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = list(mistakes)


def load(path: str | Path, type_: type[T], overrides: Iterable[str] = ()) -> T:
    """Read the YAML file `path` as the msgspec struct `type_`.

    `overrides` are `key.path=value` pairs that win over the file; values are read as YAML.
    Raises ConfigError, with all mistakes at once, for an unreadable file, YAML that does not parse or is
    not plain, a duplicate key, an unknown key, a missing key, a wrong type or a value out of range.
    """
    document = _read(Path(path))
    mistakes = [
        f"{path}:{line}: {_dotted(key_path)}: given twice (first on line {document.lines[key_path]}); remove one"
        for key_path, line in document.repeated[:MAX_TOLD]
    ]
    tree = {} if document.tree is None else document.tree
    for override in overrides:
        _apply_override(tree, override, document.lines)
    for key_path, message in islice(_find_mistakes(tree, type_, ()), MAX_TOLD - len(mistakes)):
        mistakes.append(f"{path}{_line_of(key_path, document.lines)}: {_dotted(key_path)}: {message}")
    if mistakes:
        raise ConfigError(mistakes)
    return msgspec.convert(tree, type_)


def dump(config: object) -> str:
    """Return the effective configuration, defaults included, as YAML."""
    return plain_yaml.dump(msgspec.to_builtins(config))


def _read(path: Path) -> Document:
    try:
        with path.open("rb") as file:
            raw = file.read(plain_yaml.MAX_BYTES + 1)
        return plain_yaml.parse(raw.decode())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([f"{path}: cannot be read: {reason}"]) from error
    except PlainYamlError as error:
        line = "" if error.line is None else f":{error.line}"
        raise ConfigError([f"{path}{line}: {error}"]) from error


def _apply_override(tree: object, override: str, lines: dict[KeyPath, int]) -> None:
    """Set `key.path=value` in `tree`, making the mappings on the way; forget the lines it overrides."""
    dotted, equals, text = override.partition("=")
    told = f"--set {_printable(override)}"
    if not equals or not dotted:
        raise ConfigError([f"{told}: write it as key.path=value"])
    try:
        value = plain_yaml.parse(text).tree
    except PlainYamlError as error:
        raise ConfigError([f"{told}: the value {error}"]) from error
    node: Any = tree
    at: KeyPath = ()
    *parents, last = dotted.split(".")
    try:
        for name in parents:
            key = _key(node, name)
            if isinstance(node, dict) and node.get(key) is None:
                node[key] = {}
            node, at = node[key], (*at, key)
        node[_key(node, last)] = value
    except (TypeError, ValueError, IndexError) as error:
        raise ConfigError([f"{told}: there is no such place in the configuration"]) from error
    at = (*at, _key(node, last))
    for key_path in [known for known in lines if known[: len(at)] == at]:
        del lines[key_path]


def _key(node: object, name: str) -> str | int:
    """Read a step of a key path: the items of a list are counted. Raises ValueError."""
    if not isinstance(node, list):
        return name
    if not name.isdecimal():
        raise ValueError(name)
    return int(name)


def _find_mistakes(value: object, type_: Any, at: KeyPath) -> Mistakes:
    """Yield (key path, message) for everything in `value` that does not fit `type_`."""
    type_ = _chosen_member(value, type_)
    origin = typing.get_origin(type_)
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        if isinstance(value, dict):
            yield from _find_struct_mistakes(value, type_, at)
        else:
            yield at, f"got {_shown(value)}, expected a mapping with the keys {_names(type_)}"
    elif origin is dict:
        yield from _find_dict_mistakes(value, type_, at)
    elif origin in (list, tuple) and isinstance(value, list):
        yield from _find_item_mistakes(value, type_, at)
    else:
        yield from _convert_mistake(value, type_, at)


def _find_struct_mistakes(value: dict[Any, Any], type_: type[msgspec.Struct], at: KeyPath) -> Mistakes:
    hints = _hints(type_)
    before = 0
    for key in value:
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            before += 1
            yield (*at, str(key)), f"unknown key; {meant}allowed: {_names(type_)}"
    for field in msgspec.structs.fields(type_):
        if field.name in value:
            for mistake in _find_mistakes(value[field.name], hints[field.name], (*at, field.name)):
                before += 1
                yield mistake
        elif field.required:
            before += 1
            yield (*at, field.name), "is missing, and has no default"
    if not before:  # only then are the struct's own rules over several keys worth asking
        yield from _convert_mistake(value, type_, at)


def _find_dict_mistakes(value: object, type_: Any, at: KeyPath) -> Mistakes:
    if not isinstance(value, dict):
        yield at, f"got {_shown(value)}, expected a mapping"
        return
    key_type, item_type = typing.get_args(type_)
    for key, item in value.items():
        try:
            msgspec.convert(key, key_type)
        except msgspec.ValidationError as error:
            quote = "" if isinstance(key, str) else "; put it in quotes"
            yield (*at, str(key)), f"{_shown(key)} cannot be a key here: {error}{quote}"
        yield from _find_mistakes(item, item_type, (*at, str(key)))


def _find_item_mistakes(value: list[Any], type_: Any, at: KeyPath) -> Mistakes:
    item_types = typing.get_args(type_)
    if typing.get_origin(type_) is list or item_types[-1] is Ellipsis:
        item_types = item_types[:1] * len(value)
    elif len(value) != len(item_types):
        yield at, f"got {_shown(value)}, expected {len(item_types)} values"
    for index, (item, item_type) in enumerate(zip(value, item_types, strict=False)):
        yield from _find_mistakes(item, item_type, (*at, index))


def _convert_mistake(value: object, type_: Any, at: KeyPath) -> Mistakes:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        message = re.sub(r" - at `\$[^`]*`$", "", str(error))
        yield at, f"got {_shown(value)}: {message}" if not isinstance(value, dict) else message


def _chosen_member(value: object, type_: Any) -> Any:
    """Of `X | None` choose X, unless the value is None; leave every other type as it is."""
    if typing.get_origin(type_) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(type_) if member is not type(None)]
        if len(members) == 1 and value is not None:
            return members[0]
    return type_


@cache
def _hints(type_: type[msgspec.Struct]) -> dict[str, Any]:
    return typing.get_type_hints(type_, include_extras=True)


def _names(type_: type[msgspec.Struct]) -> str:
    return ", ".join(type_.__struct_fields__)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def _printable(text: str) -> str:
    """`text`, or its quoted and shortened form where it would break or flood a line."""
    return text if text.isprintable() and len(text) <= MAX_SHOWN else _shown(text)


def _dotted(key_path: KeyPath) -> str:
    return ".".join(_printable(str(key)) for key in key_path) or "(top level)"


def _line_of(key_path: KeyPath, lines: dict[KeyPath, int]) -> str:
    while key_path and key_path not in lines:
        key_path = key_path[:-1]
    return f":{lines[key_path]}" if key_path else ""
