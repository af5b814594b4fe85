"""A judged frame as a message: which field of the wire comes from where.

Knows both sides, and does nothing else.
"""

from __future__ import annotations

import time

from dualkd.daemon.judge import Judged
from dualkd.daemon.messages import RegionBox, ResultHeader, StageTimes, encode_map


def result_message(
    judged: Judged,
    *,
    line: str,
    boot_id: str,
    seq: int,
    dropped: dict[str, int],
    with_map: bool,
) -> tuple[ResultHeader, bytes | None]:
    """Return the header, and the bytes of the map if there is one to send."""
    frame, verdict, prediction = judged.frame, judged.verdict, judged.prediction
    spec, map_bytes = None, None
    if (
        with_map
        and prediction is not None
        and prediction.anomaly_map is not None
        and judged.covers is not None
    ):
        spec, map_bytes = encode_map(prediction.anomaly_map, judged.covers)
    recipe = judged.recipe.ref
    header = ResultHeader(
        boot_id=boot_id,
        line=line,
        camera=frame.camera,
        seq=seq,
        frame_id=frame.frame_id,
        job_id=frame.job_id,
        source_name=frame.source_name,
        captured_utc_ns=frame.captured_utc_ns,
        captured_mono_ns=frame.captured_mono_ns,
        verdict=verdict.outcome,
        reason=verdict.reason,
        doubtful=verdict.doubtful,
        score=verdict.score,
        smoothed_score=verdict.smoothed_score,
        threshold=verdict.threshold,
        warn_threshold=verdict.warn_threshold,
        d_local=None if prediction is None else prediction.d_local,
        d_semantic=None if prediction is None else prediction.d_semantic,
        p_local=verdict.p_local,
        p_semantic=verdict.p_semantic,
        regions=[
            RegionBox(
                x_px=region.x_px,
                y_px=region.y_px,
                width_px=region.width_px,
                height_px=region.height_px,
                peak=region.peak,
            )
            for region in verdict.regions
        ],
        region_threshold=judged.recipe.bundle.manifest.calibration.region_threshold,
        frame=judged.size,
        batch=judged.batch,
        stage_ms=StageTimes(
            wait=judged.wait_ms,
            resize=judged.resize_ms,
            infer=judged.infer_ms,
            decide=judged.decide_ms,
            total=(time.monotonic_ns() - frame.captured_mono_ns) / 1e6,
        ),
        dropped=dropped,
        recipe=recipe.name,
        bundle=recipe.bundle,
        map=spec,
    )
    return header, map_bytes
