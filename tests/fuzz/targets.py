"""What reads bytes from outside, and what each promises about any bytes whatsoever.

A check takes the bytes of one input and raises for a broken promise. run.py feeds the checks with what a
coverage-guided fuzzer finds, tests/unit/test_fuzz_*.py with what Hypothesis makes.
"""

from __future__ import annotations

import atexit
import gzip
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import cv2
import fakes
import msgspec
import numpy as np
import yaml
from dualkd.configs.loader import ConfigError, dump, load
from dualkd.daemon import control_messages, messages
from dualkd.daemon.bundle import MANIFEST_NAME, BundleError, load_bundle
from dualkd.daemon.cameras import ring
from dualkd.daemon.cameras.containers import missing_bytes
from dualkd.daemon.config import DaemonConfig
from dualkd.daemon.control_messages import MAX_REQUEST_BYTES, AnyRequest, Reply
from dualkd.daemon.frames import FrameError, read_image
from dualkd.daemon.messages import MessageError, ResultHeader, StatusHeader
from dualkd.train.archives import ArchiveError, read_idx
from fuzz.trees import trees
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")

SEEDS = 40
SMALLEST = b"line: a\nrecipes: {default: {bundle: b}}\ncameras: [{name: c, source: 0}]\n"


@dataclass(frozen=True)
class Target:
    """One reader of bytes: its check, real inputs to begin with, how many inputs make a run."""

    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    runs: int
    max_bytes: int = 4096


def check_control(data: bytes) -> None:
    """A request is a Request or a MessageError, a reply a Reply or a MessageError; what is read can be written."""
    try:
        request = control_messages.decode_request(data)
    except MessageError as error:
        _expect(len(str(error)) <= 2 * MAX_REQUEST_BYTES, "an error longer than what it is about")
    else:
        again = control_messages.decode_request(control_messages.encode_request(request))
        _expect(again == request, "a request does not survive the wire")
    _expect(len(control_messages.request_id(data)) <= 128, "an id without end")
    try:
        reply = control_messages.decode_reply(data.split(b"\n", 2))
    except MessageError:
        return
    parts = control_messages.encode_reply(reply.reply, reply.jpeg)
    _expect(control_messages.decode_reply(parts) == reply, "a reply does not survive the wire")


def check_messages(data: bytes) -> None:
    """Parts, one a line, are a Message or a MessageError; a map has the shape that its header announced."""
    for message in (
        _decoded(messages.decode_multipart, data.split(b"\n", 3)),
        _decoded(messages.decode_scores, data),
    ):
        if message is None:
            continue
        again = messages.decode_scores(messages.encode_scores(message.topic, message.header))
        _expect(again.header == message.header, "a header does not survive the wire")
        for level in message.topic.split("/"):
            _expect(level.isprintable() and " " not in level, "a topic that cannot be told from what follows")
        if message.anomaly_map is not None:
            spec = message.header.map if isinstance(message.header, ResultHeader) else None
            _expect(spec is not None and message.anomaly_map.shape == spec.shape, "a map of another shape")


def check_config(data: bytes) -> None:
    """A file is a configuration or a ConfigError: one line a mistake, with the file or the override in it.

    Lines `#set KEY=VALUE` in it are given as overrides too.
    """
    path = _folder() / "daemon.yaml"
    path.write_bytes(data)
    overrides = [line[5:] for line in data.decode(errors="replace").split("\n") if line.startswith("#set ")]
    try:
        config = load(path, DaemonConfig, overrides)
    except ConfigError as error:
        _expect(0 < len(error.mistakes) <= 100, "no mistakes, or no end of them")
        for line in error.mistakes:
            _expect(line.startswith((f"{path}:", "--set ")), f"where is that? {line!r}")
            _expect(len(line.splitlines()) == 1, f"not one line: {line!r}")
            _expect(len(line) <= 4000, "a mistake without end")
        return
    path.write_text(dump(config))
    _expect(load(path, DaemonConfig) == config, "a configuration does not survive being printed")


def check_manifest(data: bytes) -> None:
    """bundle.json is a manifest, and then every file that it names lies in the folder, or a BundleError."""
    folder = _bundle()
    (folder / MANIFEST_NAME).write_bytes(data)
    try:
        bundle = load_bundle(folder)
    except BundleError:
        return
    for part in (*bundle.manifest.graphs, *bundle.manifest.plans):
        path = (folder / part.file).resolve()
        _expect(path.parent == folder and path.name.isprintable(), f"{part.file!r} leaves the folder")


def check_ring(data: bytes) -> None:
    """What a capture process sends is a message, or an error that the intake takes for its death."""
    ours, theirs = ring.pair()
    with ours, theirs:
        theirs.send(data)
        memory = os.memfd_create("dualkd-fuzz")
        os.ftruncate(memory, 4096)
        socket.send_fds(theirs, [data], [memory])
        os.close(memory)
        reader = ring.SlotReader(ours)
        for _ in range(2):
            try:
                message = reader.receive()
                if isinstance(message, ring.Captured) and message.shape is not None:
                    reader.view(message.slot, message.shape)
            except (EOFError, OSError, ValueError, LookupError):
                continue
            if message is not None:
                again = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message))
                _expect(again == message, "a message does not survive the socket")


def check_container(data: bytes) -> None:
    """Every file has a number of missing bytes."""
    _expect(missing_bytes(_written("film", data)) >= 0, "fewer than no bytes are missing")


def check_image(data: bytes) -> None:
    """Every file is a picture, BGR uint8, or a FrameError."""
    try:
        image = read_image(_written("image", data))
    except FrameError:
        return
    _expect(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, "no BGR picture")


def check_archive(data: bytes) -> None:
    """Every file is an array with the wanted dimensions or an ArchiveError."""
    path = _written("archive", data)
    for dimensions in (1, 3):
        try:
            array = read_idx(path, dimensions)
        except ArchiveError:
            continue
        _expect(array.ndim == dimensions, "another number of dimensions")


def request_seeds() -> list[bytes]:
    """Less what a rule over several keys refuses."""
    requests = map(msgspec.json.encode, _some(trees(AnyRequest), SEEDS))
    replies = map(msgspec.json.encode, _some(trees(Reply), 10))
    return [*(raw for raw in requests if _decoded(control_messages.decode_request, raw)), *replies]


def message_seeds() -> list[bytes]:
    seeds = []
    for tree in _some(trees(ResultHeader), SEEDS):
        topic = messages.result_topic(tree["line"], tree["camera"]).encode()
        parts = [topic, msgspec.json.encode(tree)]
        if tree["map"] is not None:
            tree["map"]["shape"] = [2, 3]
            parts = [topic, msgspec.json.encode(tree), bytes(12)]
        seeds += [b"\n".join(parts), b" ".join(parts[:2])]
    for tree in _some(trees(StatusHeader), SEEDS):
        parts = [messages.status_topic(tree["line"]).encode(), msgspec.json.encode(tree)]
        seeds += [b"\n".join(parts), b" ".join(parts)]
    return seeds


def configurations() -> SearchStrategy[Any]:
    """Trees that are a DaemonConfig, of every key with any value of its range."""

    def mended(tree: Any) -> Any:
        """Without what rules over several keys refuse: recipes that are not there, names twice, addresses."""
        tree["recipes"]["default"] = {"bundle": "b"}
        for recipe in tree["recipes"].values():
            recipe.pop("warn", None)
        for index, camera in enumerate(tree["cameras"]):
            camera["name"] = f"{index}{camera['name'][:60]}"
            camera.pop("recipe", None)
            if camera.get("follow"):
                camera.pop("loop", None)
        tree["cameras"].append({"name": "last", "source": 0})
        for section in ("control", "preview"):
            tree.get(section, {}).pop("endpoint", None)
        for key in ("results", "scores"):
            tree.get("publisher", {}).pop(key, None)
        tree.get("metrics", {}).pop("address", None)
        if tree.get("engine", {}).get("kind") == "tensorrt":
            tree["engine"].pop("provider", None)
        return tree

    return trees(DaemonConfig).map(mended)


def config_seeds() -> list[bytes]:
    explained = Path(__file__).parents[2] / "configs" / "daemon.yaml"
    overridden = SMALLEST + b"#set cameras.0.name=d\n#set recipes.default.fail=0.5\n#set batch.size=[1]\n"
    dumped = [yaml.safe_dump(tree).encode() for tree in _some(configurations(), 10)]
    return [explained.read_bytes(), SMALLEST, overridden, *dumped]


def manifest_seeds() -> list[bytes]:
    return [(_bundle() / "written.json").read_bytes()]


def ring_seeds() -> list[bytes]:
    nested = b"\x94\xa5Alive\x00\x00" + b"\x91" * 3000
    return [nested, *map(msgspec.msgpack.encode, _some(trees(ring.FromChild | ring.NewSlot), 2 * SEEDS))]


def container_seeds() -> list[bytes]:
    box = b"\0\0\0\x10ftypmp42\0\0\0\0"
    return [
        box + b"\0\0\0\x0cmdat0123" + b"\0\0\0\x08moov",
        box + b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x14" + b"0123" + b"\0\0\0\0moov",
        b"RIFF\x0c\0\0\0AVI LIST0123RIFF\x04\0\0\0AVIX",
        b"\x1a\x45\xdf\xa3\x84abcd\x18\x53\x80\x67\x01\0\0\0\0\0\0\x04abcd",
        b"\x1a\x45\xdf\xa3\x84abcd\x18\x53\x80\x67\xff",
    ]


def image_seeds() -> list[bytes]:
    picture = fakes.with_square(fakes.picture(fakes.DARK, 12, 8), 2, 2, 4)
    return [
        cv2.imencode(suffix, picture)[1].tobytes() for suffix in (".png", ".jpg", ".bmp", ".tiff", ".webp")
    ]


def archive_seeds() -> list[bytes]:
    labels = b"\0\0\x08\x01\0\0\0\x02\x01\x02"
    pictures = b"\0\0\x08\x03\0\0\0\x01\0\0\0\x02\0\0\0\x02abcd"
    return [labels, pictures, gzip.compress(labels), gzip.compress(pictures)]


TARGETS = {
    "control": Target(check_control, request_seeds, 500_000),
    "messages": Target(check_messages, message_seeds, 500_000),
    "ring": Target(check_ring, ring_seeds, 200_000),
    "containers": Target(check_container, container_seeds, 200_000, 512),
    "config": Target(check_config, config_seeds, 100_000, 2048),
    "manifest": Target(check_manifest, manifest_seeds, 200_000),
    "images": Target(check_image, image_seeds, 100_000, 2048),
    "archives": Target(check_archive, archive_seeds, 100_000, 512),
}


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _decoded(decode: Callable[[Any], T], data: Any) -> T | None:
    try:
        return decode(data)
    except MessageError:
        return None


def _some(strategy: SearchStrategy[Any], count: int) -> list[Any]:
    """The same `count` values each time."""
    found: list[Any] = []

    @settings(max_examples=count, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(tree: Any) -> None:
        found.append(tree)

    collect()
    return found


@cache
def _folder() -> Path:
    """A folder of this process."""
    folder = Path(tempfile.mkdtemp(prefix="dualkd-fuzz-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _bundle() -> Path:
    """A whole bundle; written.json is its manifest as it was."""
    path = fakes.write_bundle(_folder() / "bundle")
    shutil.copy(path / MANIFEST_NAME, path / "written.json")
    return path


def _written(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path
