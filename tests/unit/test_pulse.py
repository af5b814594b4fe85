"""How long a capture process may be silent, and when the next one starts: arithmetic on a clock told."""

from __future__ import annotations

import itertools

from dualkd.daemon.cameras.pulse import Pulse
from dualkd.daemon.config import HealthConfig


def test_each_stage_has_its_own_patience() -> None:
    """Opening, the first frame, the frames after it; what was forgiven does not count."""
    pulse = Pulse(HealthConfig(stale_after_s=2.0), open_timeout_s=20.0)
    pulse.started(100.0)
    opening = pulse.until_open()
    assert opening is not None
    assert opening == (120.0, "did not open within 20 s (open_timeout_s)")
    pulse.ready(103.0)
    assert pulse.until_open() is None
    assert pulse.until_stale() == (123.0, "opened, but gave no frame within 20 s")
    pulse.sign(104.0)
    assert pulse.until_stale() == (106.0, "no frame for 2 s (health.stale_after_s)")
    pulse.forgive(110.0)
    stale = pulse.until_stale()
    assert stale is not None
    assert stale.until_s == 112.0


def test_frames_may_come_as_seldom_as_they_like_where_nobody_minds() -> None:
    """Without stale_after_s only the opening is timed."""
    pulse = Pulse(HealthConfig(stale_after_s=None), open_timeout_s=20.0)
    pulse.started(0.0)
    assert pulse.until_open() is not None
    pulse.ready(1.0)
    assert (pulse.until_open(), pulse.until_stale(), pulse.first_frame_s) == (None, None, None)


def test_pauses_double_up_to_their_limit_and_begin_anew_after_a_healthy_spell() -> None:
    """0.5, 1, 2, 3, 3 s from start to start; a second of life does not count as healthy, 3 s do."""
    pulse = Pulse(HealthConfig(retry_s=0.5, retry_max_s=3.0), open_timeout_s=20.0)
    starts = [0.0]
    for _ in range(5):
        pulse.started(starts[-1])
        starts.append(pulse.next_start_s(starts[-1] + 0.01))
    pauses = [round(late - early, 2) for early, late in itertools.pairwise(starts)]
    assert pauses == [0.51, 1.0, 2.0, 3.0, 3.0]
    for spell_s, pause_s in ((1.0, 3.0), (3.0, 3.1 + 0.5)):
        pulse.started(100.0)
        pulse.sign(100.1)
        assert pulse.next_start_s(100.1 + spell_s) == 100.0 + pause_s


def test_an_attempt_that_took_long_is_followed_by_a_short_pause() -> None:
    """Or a camera that hangs while it opens would be away for longer than it has to."""
    pulse = Pulse(HealthConfig(retry_s=0.5, retry_max_s=3.0), open_timeout_s=20.0)
    for start_s in (0.0, 100.0, 200.0, 300.0):
        pulse.started(start_s)
        assert pulse.next_start_s(start_s + 20.0) == start_s + 20.5
