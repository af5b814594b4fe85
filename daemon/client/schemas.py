"""JSON Schemas of every message, made of the types that encode and decode them.

    python -m dualkd.daemon.client.schemas DIR

writes them; schemas/ beside this file holds them as they are now, for bridges in other languages.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from dualkd.daemon.control_messages import AnyRequest, Reply
from dualkd.daemon.messages import PreviewHeader, ResultHeader, StatusHeader

MESSAGES: dict[str, Any] = {
    "result": ResultHeader,
    "status": StatusHeader,
    "preview": PreviewHeader,
    "request": AnyRequest,
    "reply": Reply,
}


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one of MESSAGES."""
    (root,), definitions = msgspec.json.schema_components([MESSAGES[name]], ref_template="#/$defs/{name}")
    made = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"dualkd, wire version 1: {name}",
        **root,
        "$defs": definitions,
    }
    text = json.dumps(made).replace(r"\\Z", "$")  # patterns are ECMAScript's here, which knows no \Z
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def write(folder: Path) -> list[Path]:
    """Write NAME.json for each message. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in MESSAGES:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(schema(name), indent=2) + "\n", encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    print(*write(Path(sys.argv[1])), sep="\n")
