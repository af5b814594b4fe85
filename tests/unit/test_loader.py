"""YAML to structs: every mistake is one line that says where, what and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from dualkd.configs.loader import ConfigError, dump, load

Name = Annotated[str, msgspec.Meta(pattern="^[a-z]+$")]
Length = Annotated[int, msgspec.Meta(ge=1)]


class Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    size: Annotated[int, msgspec.Meta(ge=1, le=9)]
    kind: Literal["round", "square"] = "round"


class Whole(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str
    rate: float = 1.0
    parts: list[Part] = msgspec.field(default_factory=list)
    spare: Part | None = None
    kinds: dict[Name, Part] = msgspec.field(default_factory=dict)
    extent: tuple[Length, Length] | None = None

    def __post_init__(self) -> None:
        if len(self.parts) > 2:
            raise ValueError("parts: at most two")


def mistakes(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    config = tmp_path / "c.yaml"
    config.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(config, Whole, overrides)
    return [line.replace(f"{config}:", "") for line in caught.value.mistakes]


def test_a_file_becomes_a_struct_and_goes_back(tmp_path: Path) -> None:
    """Defaults are filled in, and what dump prints loads as the same thing."""
    config = tmp_path / "c.yaml"
    config.write_text("name: x\nrate: 1e-3\nparts:\n  - size: 3\n")
    loaded = load(config, Whole)
    assert loaded == Whole(name="x", rate=0.001, parts=[Part(size=3, kind="round")])
    config.write_text(dump(loaded))
    assert load(config, Whole) == loaded


def test_all_mistakes_are_told_at_once_with_line_and_key_path(tmp_path: Path) -> None:
    """Unknown key, wrong type, out of range, not among the choices, missing: five mistakes, five lines."""
    told = mistakes(tmp_path, "nam: x\nrate: fast\nparts:\n  - size: 10\n    kind: oval\n")
    assert (
        told[0]
        == "1: nam: unknown key; did you mean 'name'? allowed: name, rate, parts, spare, kinds, extent"
    )
    assert "2: rate: got 'fast': Expected `float`, got `str`" in told
    assert "4: parts.0.size: got 10: Expected `int` <= 9" in told
    assert any(line.startswith("5: parts.0.kind: got 'oval'") for line in told)
    assert " name: is missing, and has no default" in told
    assert len(told) == 5


def test_mistakes_below_free_keys_are_told_like_any_other(tmp_path: Path) -> None:
    """Each with its own line and key path; a name that does not fit, or is no text, is itself a mistake."""
    told = mistakes(
        tmp_path,
        "name: x\nkinds:\n  nut: {size: 1, knd: round}\n  Bolt: {size: 0}\n  7: {size: 1}\n  pin: 3\n",
    )
    assert told == [
        "3: kinds.nut.knd: unknown key; did you mean 'kind'? allowed: size, kind",
        "4: kinds.Bolt: 'Bolt' cannot be a key here: Expected `str` matching regex '^[a-z]+$'",
        "4: kinds.Bolt.size: got 0: Expected `int` >= 1",
        "5: kinds.7: 7 cannot be a key here: Expected `str`, got `int`; put it in quotes",
        "6: kinds.pin: got 3, expected a mapping with the keys size, kind",
    ]
    assert mistakes(tmp_path, "name: x\nkinds: 3\n") == ["2: kinds: got 3, expected a mapping"]


def test_a_tuple_has_its_length_and_each_value_its_range(tmp_path: Path) -> None:
    """Both mistakes of one line are told."""
    config = tmp_path / "c.yaml"
    config.write_text("name: x\nextent: [3, 4]\n")
    assert load(config, Whole).extent == (3, 4)
    assert mistakes(tmp_path, "name: x\nextent: [3]\n") == ["2: extent: got [3], expected 2 values"]
    assert mistakes(tmp_path, "name: x\nextent:\n  - 0\n  - wide\n  - 1\n") == [
        "2: extent: got [0, 'wide', 1], expected 2 values",
        "3: extent.0: got 0: Expected `int` >= 1",
        "4: extent.1: got 'wide': Expected `int`, got `str`",
    ]


def test_a_key_given_twice_is_a_mistake(tmp_path: Path) -> None:
    """YAML would keep the last one silently."""
    assert mistakes(tmp_path, "name: x\nname: y\n") == ["2: name: given twice (first on line 1); remove one"]


def test_a_rule_over_several_keys_is_told(tmp_path: Path) -> None:
    """What a struct's own check says reaches the user."""
    (told,) = mistakes(tmp_path, "name: x\nparts: [{size: 1}, {size: 1}, {size: 1}]\n")
    assert "parts: at most two" in told


def test_an_override_wins_and_is_checked_like_the_file(tmp_path: Path) -> None:
    """Values are YAML; a wrong one is named by its path, without the file's line."""
    config = tmp_path / "c.yaml"
    config.write_text("name: x\nparts: [{size: 1}]\n")
    loaded = load(config, Whole, ["parts.0.size=7", "rate=2.5", "spare.size=2"])
    assert (loaded.parts[0].size, loaded.rate, loaded.spare) == (7, 2.5, Part(size=2))
    assert mistakes(tmp_path, "name: x\nparts: [{size: 1}]\n", "parts.0.size=0")[0].endswith(
        "Expected `int` >= 1"
    )
    for nowhere in ("parts.3.size=1", "parts.-1.size=1", "name.x=1", "parts.\u00b2=1"):
        assert "no such place" in mistakes(tmp_path, "name: x\nparts: [{size: 1}]\n", nowhere)[0]
    assert "the value is not valid YAML" in mistakes(tmp_path, "name: x\n", "rate=[1")[0]
    assert "write it as key.path=value" in mistakes(tmp_path, "name: x\n", "rate")[0]


def test_an_override_reaches_what_the_file_leaves_open(tmp_path: Path) -> None:
    """Below a null, and below a free key that looks like a number."""
    config = tmp_path / "c.yaml"
    config.write_text("name: x\nspare: null\nkinds: null\n")
    assert load(config, Whole, ["spare.size=2", "kinds.nut.size=3"]).spare == Part(size=2)
    assert "kinds.7: '7' cannot be a key" in mistakes(tmp_path, "name: x\n", "kinds.7.size=1")[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: &x y\n", "1: is not valid YAML: anchors and aliases are not read here; write the value out"),
        ("name: x\nspare: *x\n", "2: is not valid YAML: anchors and aliases are not read"),
        ("name: !!python/name:os.system x\n", "1: is not valid YAML: tags are not read here"),
        ("name: x\nparts: " + "[" * 5000, "2: is not valid YAML: more than 32 levels deep"),
        ('name: "\\0"\n', "1: is not valid YAML: a character that no text has"),
        ('name: "\\ud800"\n', "1: is not valid YAML: a character that no text has"),
        ('name: "\\UFFFFFFFF"\n', "is not valid YAML: it has an escape or a version out of range"),
        ("name: x\n#" + "#" * (1 << 18), "is larger than 262144 bytes"),
        ("? [a]\n: b\n", "1: is not valid YAML: found unhashable key"),
        ("name: x\n---\nname: y\n", "2: is not valid YAML: but found another document"),
    ],
)
def test_yaml_that_hides_or_floods_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Aliases (of which a few lines make a tree that fills memory), tags, depth, size, text that is none."""
    (told,) = mistakes(tmp_path, text)
    assert told.removeprefix(" ").startswith(said) or told.endswith(said)


def test_an_endless_file_is_not_read_to_its_end() -> None:
    """Of /dev/zero no more than a configuration's size is taken."""
    with pytest.raises(ConfigError, match="/dev/zero: is larger than 262144 bytes"):
        load("/dev/zero", Whole)


def test_mistakes_without_end_are_not_all_told(tmp_path: Path) -> None:
    """Who has a hundred need not see the others yet."""
    assert len(mistakes(tmp_path, "name: x\nparts: [" + "1, " * 10_000 + "]\n")) == 100
    assert len(mistakes(tmp_path, "name: x\n" * 1000)) == 100


def test_a_mistake_is_one_line_whatever_the_key_is(tmp_path: Path) -> None:
    """A key with a line break in it, and one without end."""
    told = mistakes(tmp_path, '"a\\nb": 1\n' + "x" * 500 + ": 1\nname: x\n")
    assert [len(line.splitlines()) for line in told] == [1, 1]
    assert told[0].startswith("1: 'a\\nb': unknown key")
    assert len(told[1]) < 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1", "is not valid YAML"),
        (b"\xff\xfe\x00x", "not UTF-8"),
        (b"- 1\n", "expected a mapping"),
        (b"", "missing"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """Broken YAML, not text, a list instead of a mapping, nothing at all."""
    config = tmp_path / "c.yaml"
    config.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load(config, Whole)


def test_a_missing_file_is_told_with_its_path(tmp_path: Path) -> None:
    """The path, and the system's reason."""
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load(tmp_path / "none.yaml", Whole)


def test_words_stay_words_and_numbers_numbers(tmp_path: Path) -> None:
    """`off`, 010 and dates are strings as in YAML 1.2; 1e-3 is a number, and what was text is text again."""
    config = tmp_path / "c.yaml"
    config.write_text("name: off\nrate: 1e3\n")
    assert load(config, Whole) == Whole(name="off", rate=1000.0)
    for name in ("1e3", "010", "2026-01-01", "1:30", "=", "<<", "null", "", "0x1f", ".inf"):
        config.write_text(dump(Whole(name=name)))
        assert load(config, Whole).name == name
    config.write_text("name: 2026-01-01\nparts: [{size: 08}]\n")
    with pytest.raises(ConfigError, match="got '08': Expected `int`, got `str`"):
        load(config, Whole)
