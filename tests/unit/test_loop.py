"""How a step is cut into micro-batches, and what it does all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dualkd.configs.loader import ConfigError
from dualkd.daemon.bundle import Students
from dualkd.train.config import (
    DataConfig,
    InputConfig,
    LocalConfig,
    OptimConfig,
    PseudoConfig,
    SemanticConfig,
    TrainConfig,
)
from dualkd.train.detector import Detector
from dualkd.train.distributed import Ranks
from dualkd.train.early_stopping import EarlyStopping
from dualkd.train.history import History, StepRecord
from dualkd.train.images import EncodedImages
from dualkd.train.loop import Loop, learning_rate, micro_batches_fit, random_seed
from dualkd.train.pseudo import PseudoAnomalies

CPU = torch.device("cpu")
GOOD_ALONE = PseudoConfig()


def make_loop(
    accumulate: int = 1, dropout: float = 0.0, pseudo: PseudoConfig = GOOD_ALONE
) -> tuple[Loop, Detector]:
    """A loop of four steps of batch 5, each followed by a check; always from the same start."""
    config = TrainConfig(
        run="unused",
        data=DataConfig(root="x"),
        input=InputConfig(height=28, width=42),
        local=LocalConfig(blocks=[0, 1], prototypes=0, depth=2, dropout=dropout, hard_mining=0),
        semantic=SemanticConfig(blocks=[1], grid=2, depth=1, width=24, heads=3, side=28),
        training=OptimConfig(
            steps=4,
            batch=5,
            accumulate=accumulate,
            learning_rate=1e-4,
            warmup=0,
            device="cpu",
            check_every=1,
        ),
        pseudo=pseudo,
    )
    torch.manual_seed(0)
    detector = Detector(config)
    frames = torch.randint(0, 256, (9, 28, 42, 3), dtype=torch.uint8)
    images = EncodedImages(frames, detector, CPU, "float32", 64)
    held_out = EncodedImages(255 - frames[:3], detector, CPU, "float32", 64)
    anomalies = PseudoAnomalies(config, frames, detector, CPU, 64)
    return Loop(config, detector, images, anomalies, held_out, CPU, Ranks()), detector


def run(
    accumulate: int = 1, dropout: float = 0.0, drawn: int = 0, pseudo: PseudoConfig = GOOD_ALONE
) -> tuple[Loop, dict[str, torch.Tensor]]:
    """All steps; after each of them others draw `drawn` random numbers."""
    loop, detector = make_loop(accumulate, dropout, pseudo)
    for step, record in enumerate(loop.steps(), start=1):
        assert record.step == step
        torch.rand(drawn)
    assert loop.step == 4
    return loop, detector.student_state()


def test_micro_batches_add_up_to_the_same_step() -> None:
    """Of unequal size too: without dropout and hard mining the weights differ by rounding only."""
    (loop, weights), (accumulated, same_weights) = run(1), run(3)
    assert accumulated.losses == pytest.approx(loop.losses, rel=1e-3)
    for name, value in weights.items():
        torch.testing.assert_close(same_weights[name], value, rtol=1e-3, atol=2e-5)


def test_what_is_random_in_a_step_comes_from_the_seed_alone() -> None:
    """Whatever else draws random numbers; and dropout does drop something."""
    _, first = run(2, dropout=0.5)
    _, second = run(2, dropout=0.5, drawn=7)
    assert all(first[name].equal(second[name]) for name in first)
    _, undropped = run(2)
    assert not first["local.blocks.0.mlp.fc1.weight"].equal(undropped["local.blocks.0.mlp.fc1.weight"])
    seeds = {random_seed(0, 1, step, number) for step in range(50) for number in range(50)}
    assert len(seeds) == 2500


@pytest.mark.parametrize("pseudo", [GOOD_ALONE, PseudoConfig(frames=4, batch=2, jitter=0.5)])
def test_a_loop_goes_on_from_its_state_as_if_it_were_the_same(tmp_path: Path, pseudo: PseudoConfig) -> None:
    """Through a file, in another object: the same weights, and the best check is remembered."""
    unbroken, weights = run(dropout=0.5, pseudo=pseudo)
    stopped, _ = make_loop(dropout=0.5, pseudo=pseudo)
    for record in stopped.steps():
        if record.step == 2:
            torch.save(stopped.state(), tmp_path / "state.pt")
            break
    resumed, detector = make_loop(dropout=0.5, pseudo=pseudo)
    resumed.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.losses == stopped.losses
    assert resumed.early_stopping.best_step == stopped.early_stopping.best_step == 2
    assert [record.step for record in resumed.steps()] == [3, 4]
    assert all(weights[name].equal(value) for name, value in detector.student_state().items())
    assert resumed.early_stopping.best_step == unbroken.early_stopping.best_step


def test_a_batch_too_small_for_all_processes_is_refused() -> None:
    """Each of three processes needs an image for each of its two micro-batches; two if they swap global tokens."""

    def check(batch: int, jitter: float = 0.0, students: Students = "both") -> None:
        config = TrainConfig(
            run="unused",
            data=DataConfig(root="x"),
            students=students,
            pseudo=PseudoConfig(jitter=jitter),
            training=OptimConfig(batch=batch, accumulate=2, device="cpu"),
        )
        micro_batches_fit(config, Ranks(size=3))

    check(6)
    with pytest.raises(ConfigError, match=r"training\.batch: got 5, must be 6 or more"):
        check(5)
    check(6, jitter=0.5, students="local")
    check(12, jitter=0.5)
    with pytest.raises(
        ConfigError, match=r"got 11, must be 12 or more .*, two images each for pseudo\.jitter"
    ):
        check(11, jitter=0.5)


def test_the_learning_rate_rises_and_falls() -> None:
    """Linearly over the warm-up, then on a cosine to its final value."""
    settings = OptimConfig(steps=110, warmup=10, learning_rate=1.0, final_learning_rate=0.1)
    assert learning_rate(0, settings) == pytest.approx(0.1)
    assert learning_rate(9, settings) == learning_rate(10, settings) == 1.0
    assert learning_rate(60, settings) == pytest.approx(0.55)
    assert learning_rate(109, settings) == pytest.approx(0.1, abs=1e-3)


def test_early_stopping_waits_for_its_patience_and_keeps_the_best() -> None:
    """Also when it is saved and loaded in between; NaN is no improvement."""
    stopping = EarlyStopping(patience=2)
    weight = torch.zeros(1)
    for step, value in ((1, 0.5), (2, 0.4), (3, float("nan"))):
        weight.fill_(step)
        stopping.note(step, value, {"w": weight})
        assert stopping.reason is None
    resumed = EarlyStopping(patience=2)
    resumed.load_state(stopping.state())
    resumed.note(4, 0.4, {"w": weight})
    assert resumed.reason is not None
    assert "after step 2 " in resumed.reason
    assert resumed.best_step == 2
    assert resumed.best_weights == {"w": torch.full((1,), 2.0)}


def test_the_log_is_cut_back_to_the_step_that_training_goes_on_from(tmp_path: Path) -> None:
    """Lines of later steps and half a line are gone; what follows stands once."""

    def record(step: int) -> StepRecord:
        return StepRecord(step, {"local": step / 10}, step / 10, 1e-3, 0.5, 20.0, 0.7 if step == 2 else None)

    path = tmp_path / "run/log.csv"
    history = History(path, 0)
    for step in (1, 2, 3, 4):
        history.append(record(step))
    with path.open("a") as file:
        file.write("5,0.")
    resumed = History(path, 2)
    resumed.append(record(3))
    assert path.read_text().splitlines() == [
        "step,local,objective,learning_rate,gradient_norm,images_per_second,held_out",
        "1,0.1,0.1,0.001,0.5,20,",
        "2,0.2,0.2,0.001,0.5,20,0.7",
        "3,0.3,0.3,0.001,0.5,20,",
    ]
    assert resumed.losses() == [{"local": 0.1}, {"local": 0.2}, {"local": 0.3}]
