"""dualkd-watch's lines, from messages that a publisher sends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from dualkd.daemon import watch
from dualkd.daemon.config import PublisherConfig
from dualkd.daemon.curve import Security
from dualkd.daemon.messages import Header, ResultHeader, State, StatusHeader
from dualkd.daemon.publisher import ZmqPublisher
from headers import result_header, status_header
from keyring import Keyring
from running import short_folder, wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


class Publishing:
    """Publishes some messages as soon as somebody subscribes."""

    def __init__(self, results: str, folder: Path, messages: list[Header], security: Security | None) -> None:
        config = PublisherConfig(results=results, scores=f"ipc://{folder}/s")
        self._publisher = ZmqPublisher(config, security)
        self._messages = messages
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> str:
        self._publisher.open()
        self._thread.start()
        return self._publisher.endpoints[0]

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._publisher.close()

    def _publish(self) -> None:
        def heard() -> bool:
            self._publisher.serve_subscriptions()
            return self._publisher.subscriptions > 0

        wait_until(heard, "a subscription")
        for message in self._messages:
            kind = "status" if isinstance(message, StatusHeader) else f"{message.camera}/result"
            self._publisher.publish(f"v1/line/{kind}", message)


def status(seq: int, warnings: list[str], state: State = "running") -> StatusHeader:
    exit_status = 0 if state == "ended" else None
    return status_header({}, boot_id="b", seq=seq, state=state, exit_status=exit_status, warnings=warnings)


def result(seq: int, **changes: object) -> ResultHeader:
    usual: dict[str, object] = {"frame_id": seq, "score": 0.25, "warn_threshold": 0.2}
    return result_header(boot_id="b", seq=seq, **{**usual, **changes})


def test_a_warning_is_a_line_when_it_comes_and_not_again_while_it_stays(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When it went and comes back, it is a line again; it cannot steer the terminal."""
    full, drift = "archive: the disk is full", "cam: the scores\033[2J drift"
    warnings: list[list[str]] = [[full], [full], [full, drift], [], [full]]
    messages: list[Header] = [status(seq, said) for seq, said in enumerate(warnings)]
    with Publishing(f"ipc://{folder}/r", folder, [*messages, status(5, [], "ended")], None) as endpoint:
        assert watch.main([endpoint, "--until-ended", "--timeout", "60"]) == watch.DONE
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if "!!" in line] == [
        f"  !! {full}",
        "  !! cam: the scores [2J drift",
        f"  !! {full}",
    ]


def test_a_verdict_says_its_job_its_doubt_and_its_smoothed_score(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one without a frame, an unanswered trigger, says why."""
    messages: list[Header] = [
        result(0, doubtful=True, smoothed_score=0.3, job_id="part-7"),
        result(
            1, frame_id=None, verdict="INVALID", score=None, job_id="part-8", reason="no frame within 1 s"
        ),
    ]
    with Publishing(f"ipc://{folder}/r", folder, messages, None) as endpoint:
        assert watch.main([endpoint, "--count", "2", "--timeout", "60"]) == watch.DONE
    first, second = capsys.readouterr().out.splitlines()
    for words in ("PASS", "score 0.250", "smoothed 0.300", "doubtful (above 0.200)", "job part-7"):
        assert words in first
    for words in ("cam                -", "INVALID", "job part-8", "no frame within 1 s"):
        assert words in second


def test_keys_open_a_guarded_line_and_a_stranger_is_told(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 5 for a key that is not on the list, 0 for one that is."""
    keyring = Keyring(tmp_path)

    def keys(name: str) -> list[str]:
        return ["--key", str(tmp_path / f"{name}.key_secret"), "--server-key", str(tmp_path / "daemon.key")]

    with Publishing("tcp://127.0.0.1:*", folder, [result(0)], keyring.security()) as endpoint:
        assert watch.main([endpoint, "--timeout", "60", *keys("stranger")]) == watch.DENIED
        assert watch.main([endpoint, "--timeout", "60", "--count", "1", *keys("watcher")]) == watch.DONE
    assert "denies this key" in capsys.readouterr().err
