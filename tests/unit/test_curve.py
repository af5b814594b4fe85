"""Keys as files: made, found, refused."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import msgspec
import pytest
from dualkd.daemon.config import CurveConfig
from dualkd.daemon.curve import CurveError, Security, load_client_keys, load_security, make_keys
from keyring import Keyring


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


def test_a_pair_is_two_files_and_only_the_owner_reads_the_secret(tmp_path: Path) -> None:
    """The secret has mode 0600, the public file holds no secret, nothing else is left in the folder."""
    public, secret = make_keys(tmp_path / "new", "line1")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["line1.key", "line1.key_secret"]
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert "secret-key" not in public.read_text()
    assert repr(load_client_keys(secret, public)).count("secret") == 0


@pytest.mark.parametrize("there", ["line1.key", "line1.key_secret"])
def test_no_key_is_overwritten(tmp_path: Path, there: str) -> None:
    """Neither half; and no half of a new pair stays beside it."""
    (tmp_path / there).write_text("in use")
    with pytest.raises(CurveError, match=f"{there}: is there already"):
        make_keys(tmp_path, "line1")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "in use"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a\n", "x" * 65])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    """It becomes two files in the folder that was named, nowhere else."""
    with pytest.raises(CurveError, match="expected letters"):
        make_keys(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """With the system's reason."""
    (tmp_path / "file").touch()
    with pytest.raises(CurveError, match="no key can be written there"):
        make_keys(tmp_path / "file" / "x", "line1")


def test_without_a_secret_key_there_is_no_security() -> None:
    """None: then only this host is served."""
    assert load_security(CurveConfig()) is None


def test_a_secret_that_others_can_read_is_refused(keyring: Keyring) -> None:
    """With the command that mends it."""
    secret = keyring.folder / "daemon.key_secret"
    secret.chmod(0o640)
    with pytest.raises(CurveError, match=f"mode 640.*chmod 600 {secret}"):
        keyring.security()


def test_a_credential_of_systemd_is_found_by_its_name(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In $CREDENTIALS_DIRECTORY, where the group bits are the mask of an access list; not by a path."""
    credentials = keyring.folder / "credentials"
    credentials.mkdir()
    (keyring.folder / "daemon.key_secret").rename(credentials / "curve")
    (credentials / "curve").chmod(0o440)
    config = msgspec.structs.replace(keyring.config(), secret_key="curve")
    with pytest.raises(CurveError, match="curve: cannot be read"):
        load_security(config)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert load_security(config) is not None
    with pytest.raises(CurveError, match="cannot be read"):
        load_security(msgspec.structs.replace(config, secret_key="credentials/../curve"))
    (credentials / "curve").chmod(0o444)
    with pytest.raises(CurveError, match="others can read"):
        load_security(config)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("", "is no key file"),
        ("public-key", "is no key file"),
        ("\0\xff" * 100, "is no key file"),
        ('public-key = "x"\n', "holds no secret key"),
        ('public-key = "x"\nsecret-key = "short"\n', "no CURVE key"),
    ],
)
def test_what_is_no_secret_key_is_refused(keyring: Keyring, content: str | None, said: str) -> None:
    """A missing file, an empty one, noise, half a line, the public half, a key too short: each named."""
    secret = keyring.folder / "daemon.key_secret"
    if content is None:
        secret.unlink()
    else:
        secret.write_text(content)
    with pytest.raises(CurveError, match=f"{secret}: .*{said}"):
        keyring.security()


def test_halves_of_two_pairs_are_refused(keyring: Keyring) -> None:
    """A file put together by hand from two others."""
    secret = keyring.folder / "daemon.key_secret"
    public = (keyring.folder / "boss.key").read_text().splitlines()[-1]
    secret.write_text(f"{public}\n{secret.read_text().splitlines()[-1]}\n")
    with pytest.raises(CurveError, match="are not a pair"):
        keyring.security()


def test_an_allow_list_that_is_not_there_is_refused(keyring: Keyring) -> None:
    """At the start; at a reload too, and then the old list holds."""
    security = keyring.security()
    key = keyring.client("boss").public
    keyring.controllers.rename(keyring.folder / "gone")
    with pytest.raises(CurveError, match=r"curve\.controllers: .*No such file"):
        keyring.security()
    with pytest.raises(CurveError, match=r"curve\.controllers"):
        security.reload()
    assert security.admits("control", key, "127.0.0.1")


@pytest.mark.parametrize(
    "content",
    ["", 'public-key = "tooshort"', 'public-key = "' + "~" * 40 + '"', f'public-key = "{"#" * 40}"'],
)
def test_a_broken_key_in_a_list_is_named(keyring: Keyring, content: str) -> None:
    """Rather than passed over: somebody thinks that it is allowed."""
    (keyring.subscribers / "broken.key").write_text(content)
    with pytest.raises(CurveError, match=r"curve\.subscribers: .*broken\.key"):
        keyring.security()


def test_a_secret_key_in_a_list_is_refused(keyring: Keyring) -> None:
    """It was handed out by mistake."""
    (keyring.folder / "boss.key_secret").rename(keyring.subscribers / "boss.key")
    with pytest.raises(CurveError, match="holds a secret key; only the public one"):
        keyring.security()


def test_controllers_may_read_and_subscribers_may_not_control(keyring: Keyring) -> None:
    """Two lists, three purposes."""
    security = keyring.security()
    allowed = {
        who: [
            security.admits(domain, keyring.client(who).public, "")
            for domain in ("results", "scores", "control")
        ]
        for who in ("boss", "watcher", "stranger")
    }
    assert allowed == {
        "boss": [True, True, True],
        "watcher": [True, True, False],
        "stranger": [False, False, False],
    }


def test_the_denied_are_counted_and_do_not_flood_the_log(
    keyring: Keyring, caplog: pytest.LogCaptureFixture
) -> None:
    """A thousand attempts: a thousand counted, one line."""
    security: Security = keyring.security()
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            assert not security.admits("control", keyring.client("stranger").public, "10.0.0.7")
    assert security.denied == {"control": 1000}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "control: denied: 10.0.0.7 came with the key" in lines[0]
