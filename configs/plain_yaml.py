"""The part of YAML that configurations are written in, and the line of every key.

Mappings, lists and YAML 1.2's plain values: 1e-3 is a number, `off`, 010 and 2026-01-01 are text. No tags,
no anchors and no aliases, so that each value stands where it counts and a short file cannot become a large
tree; sizes and depths have limits. Knows no structs.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

MAX_BYTES = 1 << 18  # of a document
MAX_DEPTH = 32

KeyPath = tuple[str | int, ...]


class Document(NamedTuple):
    """What a text says, and where."""

    tree: Any
    lines: dict[KeyPath, int]
    repeated: list[tuple[KeyPath, int]]  # keys given again, with the line of it; the last one counts


class PlainYamlError(Exception):
    """Text that is no such YAML: what is wrong, in one line."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def parse(text: str) -> Document:
    """Read one document. Raises PlainYamlError."""
    if len(text) > MAX_BYTES:
        raise PlainYamlError(f"is larger than {MAX_BYTES} bytes")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        tree = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        what = f"is not valid YAML: {error.problem or error.context}"
        raise PlainYamlError(what, None if mark is None else mark.line + 1) from error
    except yaml.YAMLError as error:
        raise PlainYamlError(f"is not valid YAML: {' '.join(str(error).split())}") from error
    except (ValueError, OverflowError) as error:  # PyYAML lets these two through
        raise PlainYamlError("is not valid YAML: it has an escape or a version out of range") from error
    document = Document(tree, {}, [])
    if root is not None:
        _index(root, (), document)
    return document


def dump(tree: object) -> str:
    """Return plain YAML that `parse` reads as the same tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, default_flow_style=False)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refusal("anchors and aliases are not read here; write the value out", event)
        if getattr(event, "tag", None):
            raise _refusal("tags are not read here; remove it, or put text in quotes", event)
        if self._depth == MAX_DEPTH:
            raise _refusal(f"more than {MAX_DEPTH} levels deep", event)
        if isinstance(event, yaml.ScalarEvent) and _NO_TEXT.search(event.value):
            raise _refusal("a character that no text has (NUL, or half of a surrogate pair)", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (nothing is written as an alias)
        return True


def _refusal(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_BOOL, _INT, _FLOAT, _NULL = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null"))
_FLOATS = re.compile(
    r"^[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
)
_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(_NULL, re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,17})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(_FLOAT, _FLOATS, list("-+0123456789."))
_Dumper.add_implicit_resolver(_FLOAT, _FLOATS, list("-+0123456789."))  # so that the text 1e3 is quoted


def _index(node: yaml.Node, at: KeyPath, document: Document) -> None:
    """Note the line of every key path below `node`, and every key given twice."""
    lines = document.lines
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here, line = (*at, str(key.value)), key.start_mark.line + 1
            if here in lines:
                document.repeated.append((here, line))
            else:
                lines[here] = line
            _index(value, here, document)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*at, index)] = value.start_mark.line + 1
            _index(value, (*at, index), document)
