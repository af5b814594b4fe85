"""ONNX Runtime as an engine: what is asked for runs, or it is an error."""

from __future__ import annotations

from pathlib import Path

import fakes
import msgspec
import onnxruntime as ort
import pytest
from dualkd.daemon.config import EngineConfig
from dualkd.daemon.engine import EngineError, Provider
from dualkd.daemon.engine_onnx import PROVIDERS, RECORD_PLACES, OnnxEngine, misplaced


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return fakes.write_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_this_onnx_runtime_has_no_part_for_is_refused(bundle: Path, provider: Provider) -> None:
    """Naming what to install; the CPU is not used instead."""
    if PROVIDERS[provider] in ort.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {PROVIDERS[provider]}")
    with pytest.raises(EngineError, match=rf"{PROVIDERS[provider]}. Install onnxruntime-gpu in place of"):
        OnnxEngine.of(fakes.load(bundle), provider=provider)


def test_nodes_that_run_elsewhere_are_told_but_for_shape_arithmetic() -> None:
    """Of a session on the CPU, asked as if CUDA had been wanted."""
    if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip(f"ONNX Runtime {ort.__version__} does not tell where nodes run")
    options = ort.SessionOptions()
    options.add_session_config_entry(RECORD_PLACES, "1")
    model = fakes.brightness_model().SerializeToString()
    session = ort.InferenceSession(model, options, providers=[PROVIDERS["cpu"]])
    places = session.get_provider_graph_assignment_info()
    assert misplaced(places, PROVIDERS["cpu"]) == []
    operators = {node.split()[0] for node in misplaced(places, PROVIDERS["cuda"])}
    assert "AveragePool" in operators
    assert "Squeeze" not in operators


def test_a_provider_without_onnx_runtime_is_refused() -> None:
    """A plan is run by TensorRT itself: the key would say nothing."""
    with pytest.raises(msgspec.ValidationError, match=r"provider cuda is for kind: onnx"):
        msgspec.convert({"kind": "tensorrt", "provider": "cuda"}, EngineConfig)
