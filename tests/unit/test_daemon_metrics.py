"""The metrics as Prometheus reads them, over real HTTP."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from typing import get_args
from urllib.error import HTTPError

import pytest
from dualkd.daemon.config import MetricsConfig
from dualkd.daemon.messages import BundleRef, CameraState, RecipeRef, StageTimes
from dualkd.daemon.monitoring.metrics import MetricsError, PrometheusMetrics
from headers import camera_status, result_header, status_header
from prometheus_client.parser import text_string_to_metric_families
from running import PATIENCE_S, wait_until

Samples = dict[str, dict[tuple[str, ...], float]]


@pytest.fixture
def metrics() -> Iterator[PrometheusMetrics]:
    metrics = PrometheusMetrics(MetricsConfig(address="127.0.0.1:0"), "line1")
    metrics.open()
    yield metrics
    metrics.close()


def get(metrics: PrometheusMetrics, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}{path}", timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def scrape(metrics: PrometheusMetrics) -> Samples:
    """Values by name and labels, these in the order of their names."""
    found: Samples = {}
    for family in text_string_to_metric_families(get(metrics, "/metrics")):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_the_account_is_that_of_the_status(metrics: PrometheusMetrics) -> None:
    """Number for number, camera for camera, however many results came since."""
    left = camera_status(
        captured=100,
        passed=80,
        failed=7,
        invalid=5,
        absent=3,
        dropped={"intake: a newer frame came": 4, "publisher: a full subscriber": 2},
        restarts=9,
        age_s=0.25,
    )
    metrics.status(status_header({"left": left, "right": camera_status(captured=1)}, uptime_s=12.5))
    metrics.result(result_header(camera="left"))
    told = scrape(metrics)
    assert told["dualkd_frames_captured_total"] == {("left",): 100, ("right",): 1}
    assert told["dualkd_verdicts_total"] == {
        ("left", "PASS"): 80,
        ("left", "FAIL"): 7,
        ("left", "INVALID"): 5,
        ("right", "PASS"): 0,
        ("right", "FAIL"): 0,
        ("right", "INVALID"): 0,
    }
    assert told["dualkd_frames_dropped_total"] == {
        ("left", "a newer frame came", "intake"): 4,
        ("left", "a full subscriber", "publisher"): 2,
    }
    assert told["dualkd_frames_absent_total"] == {("left",): 3, ("right",): 0}
    assert told["dualkd_frames_in_flight"] == {("left",): 2, ("right",): 1}
    assert told["dualkd_camera_restarts_total"] == {("left",): 9, ("right",): 0}
    assert told["dualkd_camera_frame_age_seconds"] == {("left",): 0.25}
    assert told["dualkd_uptime_seconds"] == {(): 12.5}


def test_states_are_one_of_all(metrics: PrometheusMetrics) -> None:
    """1 for the state that it is, 0 for the others, which stay there; and the warnings are counted."""
    lost = camera_status(state="lost", paused=True)
    metrics.status(status_header({"cam": lost}, state="draining", warnings=["a", "b"]))
    told = scrape(metrics)
    assert told["dualkd_camera_state"] == {("cam", state): state == "lost" for state in get_args(CameraState)}
    assert [state for state, value in told["dualkd_state"].items() if value] == [("draining",)]
    assert told["dualkd_camera_paused"] == {("cam",): 1}
    assert told["dualkd_warnings"] == {(): 2}
    metrics.status(status_header({"cam": camera_status()}))
    told = scrape(metrics)
    assert told["dualkd_camera_state"] == {
        ("cam", state): state == "running" for state in get_args(CameraState)
    }
    assert told["dualkd_warnings"] == {(): 0}


def test_a_camera_s_recipe_is_told_with_its_bundle_and_thresholds(metrics: PrometheusMetrics) -> None:
    """The one that holds now; after a change no trace of the old one, before loading none at all."""
    bundle = BundleRef(name="bracket", sha256="ab" * 32)
    metrics.status(
        status_header({"cam": camera_status(recipe=RecipeRef(name="r1", bundle=bundle, fail=0.6, warn=0.4))})
    )
    told = scrape(metrics)
    assert told["dualkd_camera_recipe_info"] == {("bracket", "ab" * 32, "cam", "r1"): 1}
    assert told["dualkd_camera_fail_threshold"] == {("cam",): 0.6}
    assert told["dualkd_camera_warn_threshold"] == {("cam",): 0.4}
    metrics.status(
        status_header({"cam": camera_status(recipe=RecipeRef(name="r2", bundle=bundle, fail=0.7, warn=None))})
    )
    told = scrape(metrics)
    assert told["dualkd_camera_recipe_info"] == {("bracket", "ab" * 32, "cam", "r2"): 1}
    assert told["dualkd_camera_fail_threshold"] == {("cam",): 0.7}
    assert "dualkd_camera_warn_threshold" not in told
    metrics.status(status_header({"cam": camera_status(recipe=None)}))
    assert "dualkd_camera_recipe_info" not in scrape(metrics)


def test_results_fill_the_histograms(metrics: PrometheusMetrics) -> None:
    """Seconds out of milliseconds, each stage and camera its own; scores where there are any."""
    metrics.status(status_header({"cam": camera_status(), "other": camera_status()}))
    times = StageTimes(wait=0.05, resize=3.0, infer=40.0, decide=0.3, total=60_000.0)
    metrics.result(result_header(score=0.12, stage_ms=times, doubtful=True))
    metrics.result(result_header(score=0.97, stage_ms=times, verdict="FAIL"))
    metrics.result(result_header(score=None, stage_ms=times, verdict="INVALID"))
    told = scrape(metrics)
    stages = told["dualkd_stage_seconds_bucket"]
    assert (stages["cam", "0.0001", "wait"], stages["cam", "0.002", "resize"]) == (3, 0)
    assert (stages["cam", "0.005", "resize"], stages["cam", "0.05", "infer"]) == (3, 3)
    assert (stages["cam", "10.0", "total"], stages["cam", "+Inf", "total"]) == (0, 3)
    assert told["dualkd_stage_seconds_sum"]["cam", "resize"] == pytest.approx(0.009)
    assert told["dualkd_stage_seconds_count"]["other", "resize"] == 0
    scores = told["dualkd_score_bucket"]
    assert (scores["cam", "0.1"], scores["cam", "0.15"], scores["cam", "1.0"]) == (0, 1, 2)
    assert told["dualkd_frames_doubtful_total"] == {("cam",): 1, ("other",): 0}


def test_a_frame_that_never_came_has_no_times(metrics: PrometheusMetrics) -> None:
    """It is an INVALID on the wire, but went through no stage."""
    metrics.result(result_header(frame_id=None, score=None, verdict="INVALID", batch=0))
    assert scrape(metrics)["dualkd_stage_seconds_count"]["cam", "total"] == 0


def test_engine_time_is_counted_once_a_batch(metrics: PrometheusMetrics) -> None:
    """Three frames and one share two batches, however their results come; a faulty frame had no part in it."""
    big = result_header(batch=3, stage_ms=StageTimes(wait=0, resize=0, infer=30.0, decide=0, total=0))
    small = result_header(batch=1, stage_ms=StageTimes(wait=0, resize=0, infer=12.0, decide=0, total=0))
    fault = result_header(batch=0, score=None, verdict="INVALID")
    for header in (big, small, big, fault, big):
        metrics.result(header)
    told = scrape(metrics)
    assert told["dualkd_engine_seconds_total"][()] == pytest.approx(0.042)
    assert told["dualkd_engine_batches_total"][()] == pytest.approx(2)
    assert told["dualkd_engine_frames_total"] == {(): 4}


def test_labels_are_bounded(metrics: PrometheusMetrics) -> None:
    """Whatever the texts of thousands of results, the series stay those of the cameras."""
    cameras = {"left": camera_status(), "right": camera_status(reason="first")}
    metrics.status(status_header(cameras))
    metrics.result(result_header(camera="left"))
    before = {name: len(series) for name, series in scrape(metrics).items()}
    for number in range(300):
        metrics.result(
            result_header(
                camera="left",
                reason=f"reason {number}",
                source_name=f"{number}.png",
                job_id=f"job-{number}",
                recipe=f"recipe-{number}",
                bundle=BundleRef(name=f"bundle-{number}", sha256=f"{number:064}"),
                dropped={f"x: {number}": 1},
                boot_id=str(number),
            )
        )
        cameras["right"] = camera_status(state="lost", reason=f"lost for the {number}th time")
        metrics.status(status_header(cameras, warnings=[f"warning {number}"]))
    assert {name: len(series) for name, series in scrape(metrics).items()} == before


def test_the_process_and_the_build_are_there_before_any_status(metrics: PrometheusMetrics) -> None:
    """Memory and handles of this process, the line and the version; and no state yet."""
    told = scrape(metrics)
    assert told["process_resident_memory_bytes"][()] > 1e6
    assert told["process_open_fds"][()] > 2
    ((line, version),) = told["dualkd_build_info"]
    assert line == "line1"
    assert version
    assert "dualkd_state" not in told


def test_every_metric_is_explained_and_named_by_the_conventions(metrics: PrometheusMetrics) -> None:
    """A help text, dualkd_ in front, _total behind counters and base units."""
    metrics.status(status_header({"cam": camera_status()}))
    for family in text_string_to_metric_families(get(metrics, "/metrics")):
        assert family.documentation, family.name
        if family.name.startswith(("process_", "python_")):
            continue
        assert family.name.startswith("dualkd_")
        assert not family.name.endswith(("_ms", "_total_total", "_created"))
        assert all(sample.name.endswith("_total") for sample in family.samples if family.type == "counter")


def test_healthz_and_readyz_say_why_not(metrics: PrometheusMetrics) -> None:
    """503 with a line for every reason, 200 without any."""
    with pytest.raises(HTTPError) as starting:
        get(metrics, "/healthz")
    assert starting.value.code == 503
    assert starting.value.read() == b"starting: the loop has not begun\n"
    cameras = {"one": camera_status(state="lost", reason="dark"), "two": camera_status(state="opening")}
    metrics.status(status_header(cameras, heartbeat_s=0.05))
    assert get(metrics, "/healthz") == "ok\n"
    with pytest.raises(HTTPError) as lost:
        get(metrics, "/readyz")
    assert lost.value.code == 503
    assert lost.value.read() == b"camera one is lost: dark\ncamera two is opening\n"
    metrics.status(status_header({"one": camera_status()}, heartbeat_s=0.05))
    assert get(metrics, "/readyz") == "ok\n"

    def silent() -> bool:
        try:
            get(metrics, "/healthz")
        except HTTPError as error:
            error.close()
            return error.code == 503
        return False

    wait_until(silent, "the silence is noticed")
    metrics.result(result_header(camera="one"))
    assert get(metrics, "/healthz") == "ok\n"


def test_a_port_in_use_is_said_with_the_key(metrics: PrometheusMetrics) -> None:
    """Another daemon on the same address does not start, and knows what to change."""
    second = PrometheusMetrics(MetricsConfig(address=f"127.0.0.1:{metrics.port}"), "line2")
    with pytest.raises(MetricsError, match=r"metrics.address: 127.0.0.1:\d+ .*in use; choose another"):
        second.open()
    second.close()


def test_without_an_address_it_counts_and_does_not_listen() -> None:
    """No port is opened; results and statuses are taken all the same, and closing closes."""
    quiet = PrometheusMetrics(MetricsConfig(address=None), "line1")
    quiet.open()
    quiet.status(status_header({"cam": camera_status()}))
    quiet.result(result_header())
    assert quiet.port is None
    quiet.close()


def test_closing_gives_the_port_back() -> None:
    """Nobody answers there any more."""
    metrics = PrometheusMetrics(MetricsConfig(address="127.0.0.1:0"), "line1")
    metrics.open()
    port = metrics.port
    assert port is not None
    metrics.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
