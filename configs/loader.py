"""YAML to a typed struct, with one line for every mistake.

Knows YAML and msgspec. Does not know any particular configuration: those structs stand beside the code
that they configure.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

T = TypeVar("T")
KeyPath = tuple[str | int, ...]


class ConfigError(Exception):
    """A configuration that cannot be used. `mistakes` holds one line for each: file, key path, value, cause."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = list(mistakes)


def load(path: str | Path, type_: type[T], overrides: Iterable[str] = ()) -> T:
    """Read the YAML file `path` as the msgspec struct `type_`.

    `overrides` are `key.path=value` pairs that win over the file; values are read as YAML.
    Raises ConfigError, with all mistakes at once, for an unreadable file, YAML that does not parse, a
    duplicate key, an unknown key, a missing key, a wrong type or a value out of range.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([f"{path}: cannot be read: {reason}"]) from error
    try:
        root = yaml.compose(text, Loader=_Loader)
        tree = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: is not valid YAML: {' '.join(str(error).split())}"]) from error
    lines: dict[KeyPath, int] = {}
    mistakes = [f"{path}{where}" for where in _index_lines(root, (), lines)]
    tree = {} if tree is None else tree
    for override in overrides:
        _apply_override(tree, override, lines)
    for key_path, message in _find_mistakes(tree, type_, ()):
        mistakes.append(f"{path}{_line_of(key_path, lines)}: {_dotted(key_path)}: {message}")
    if mistakes:
        raise ConfigError(mistakes)
    try:
        return msgspec.convert(tree, type_)
    except msgspec.ValidationError as error:  # a rule over several keys, from a struct's __post_init__
        raise ConfigError([f"{path}: {error}"]) from error


def dump(config: object) -> str:
    """Return the effective configuration, defaults included, as YAML."""
    return yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False, default_flow_style=False)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's idea of numbers and booleans: 1e-3 is a float, `off` is a string."""


_OURS = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OURS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|nan))$"),
    list("-+0123456789."),
)


def _index_lines(node: yaml.Node | None, at: KeyPath, lines: dict[KeyPath, int]) -> list[str]:
    """Note the line of every key path below `node`; return a message for every key given twice."""
    mistakes = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, str(key.value))
            if here in lines:
                line = key.start_mark.line + 1
                mistakes.append(
                    f":{line}: {_dotted(here)}: given twice (first on line {lines[here]}); remove one"
                )
            lines[here] = key.start_mark.line + 1
            mistakes += _index_lines(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            item = (*at, index)
            lines[item] = value.start_mark.line + 1
            mistakes += _index_lines(value, item, lines)
    return mistakes


def _apply_override(tree: object, override: str, lines: dict[KeyPath, int]) -> None:
    """Set `key.path=value` in `tree`, making the mappings on the way; forget the lines it overrides."""
    dotted, equals, text = override.partition("=")
    keys: list[str | int] = [int(key) if key.isdigit() else key for key in dotted.split(".")]
    if not equals or not dotted:
        raise ConfigError([f"--set {override}: write it as key.path=value"])
    try:
        value = yaml.load(text, Loader=_Loader)
        node: Any = tree
        for key in keys[:-1]:
            node = node[key] if isinstance(key, int) else node.setdefault(key, {})
        node[keys[-1]] = value
    except (yaml.YAMLError, TypeError, AttributeError, LookupError) as error:
        raise ConfigError([f"--set {override}: there is no such place in the configuration"]) from error
    for key_path in [known for known in lines if known[: len(keys)] == tuple(keys)]:
        del lines[key_path]


def _find_mistakes(value: object, type_: Any, at: KeyPath) -> Iterable[tuple[KeyPath, str]]:
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


def _find_struct_mistakes(
    value: dict[Any, Any], type_: type[msgspec.Struct], at: KeyPath
) -> Iterable[tuple[KeyPath, str]]:
    hints = typing.get_type_hints(type_, include_extras=True)
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


def _find_dict_mistakes(value: object, type_: Any, at: KeyPath) -> Iterable[tuple[KeyPath, str]]:
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


def _find_item_mistakes(value: list[Any], type_: Any, at: KeyPath) -> Iterable[tuple[KeyPath, str]]:
    item_types = typing.get_args(type_)
    if typing.get_origin(type_) is list or item_types[-1] is Ellipsis:
        item_types = item_types[:1] * len(value)
    elif len(value) != len(item_types):
        yield at, f"got {_shown(value)}, expected {len(item_types)} values"
    for index, (item, item_type) in enumerate(zip(value, item_types, strict=False)):
        yield from _find_mistakes(item, item_type, (*at, index))


def _convert_mistake(value: object, type_: Any, at: KeyPath) -> Iterable[tuple[KeyPath, str]]:
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


def _names(type_: type[msgspec.Struct]) -> str:
    return ", ".join(type_.__struct_fields__)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _dotted(key_path: KeyPath) -> str:
    return ".".join(str(key) for key in key_path) or "(top level)"


def _line_of(key_path: KeyPath, lines: dict[KeyPath, int]) -> str:
    while key_path and key_path not in lines:
        key_path = key_path[:-1]
    return f":{lines[key_path]}" if key_path else ""
