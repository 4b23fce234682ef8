"""What a recipe may say, section by section, with defaults and ranges. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from metabridge.bridge.errors import UserError


def setting(default: Any, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A field with a default and what its value may be."""
    return field(default=default, metadata={"low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Part:
    """A brain or a hand: adapters/<kind>s/<name>.py: load(**options)."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Connector:
    queries: int = setting(16, low=1)
    taps: tuple[int, ...] = (-1,)  # k = output of decoder layer k, -1 = after the final norm
    width: int = setting(192, low=1)
    layers: int = setting(4, low=0)
    heads: int = setting(6, low=1)


@dataclass(frozen=True)
class Objective:
    name: str = setting("auto", choices=("auto", "flow", "epsilon", "v"))  # auto = what the hand predicts
    timesteps: str = setting("logit_normal", choices=("logit_normal", "uniform"))
    shift: float = setting(1.0, low=1e-3)
    latents: str = setting("mean", choices=("mean", "sample"))  # of a target: its mean, or a sample that stays the row's own
    distill: float = setting(0.0, low=0, high=1)  # share of the loss whose target is the hand's own prediction
    drop_text: float = setting(0.1, low=0, high=1)  # share of rows whose prompt is read as ""
    drop_image: float = setting(0.0, low=0, high=1)  # share of rows whose pictures are not read
    drop_both: float = setting(0.0, low=0, high=1)
    think: float = setting(0.0, low=0, high=1)  # share of rows read as prompt + thought


@dataclass(frozen=True)
class Source:
    """One source of rows; `weight` is its share beside the others' weights."""

    source: str
    task: str = setting("t2i", choices=("t2i", "edit", "compose", "reconstruct", "dialogue"))
    weight: float = setting(1.0, low=0)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Train:
    steps: int = setting(1000, low=1)
    batch_size: int = setting(64, low=1)  # global: over all processes and accumulation
    grad_accum: int = setting(1, low=1)
    lr: float = setting(1e-3, low=0)
    warmup: int = setting(50, low=0)
    lr_queries: float = setting(0.0, low=0)  # of the queries; 0 = lr
    lr_hand: float = setting(0.0, low=0)  # of what hand.train trains; 0 = lr
    lr_references: float = setting(0.0, low=0)  # of the hand's new input for source pictures; 0 = as the hand's
    schedule: str = setting("cosine", choices=("cosine", "constant", "wsd"))
    min_lr: float = setting(0.0, low=0, high=1)  # where the schedule ends, as a share of lr
    decay: float = setting(0.0, low=0, high=1)  # wsd: share of the steps, at the end, over which the rate falls
    weight_decay: float = setting(0.0, low=0)
    clip: float = setting(1.0, low=0)  # greatest norm of the gradient; 0 = no clipping
    ema: float = setting(0.999, low=0, high=0.999999)  # 0 = no EMA
    length_groups: int = setting(1, low=1)  # groups of rows of like length in which the brain reads a batch: less padding
    precision: str = setting("float32", choices=("float32", "bfloat16", "float64"))
    shard: str = setting("none", choices=("none", "brain", "hand", "both"))  # frozen parts that are spread over the processes
    seed: int = setting(0, low=0, high=2**63 - 1)
    checkpoint_every: int = setting(500, low=0)  # 0 = at the end only
    keep: int = setting(2, low=1)  # checkpoints; older ones are removed
    spike: float = setting(100.0, low=0)  # a step whose gradient's norm is this many times the usual one is skipped; 0 = none is
    max_skips: int = setting(5, low=1)  # skipped steps in a row after which the last good checkpoint is taken again
    size: int = setting(0, low=0)  # side in pixels of the square whose area every picture has; 0 = the hand's own size
    max_aspect: float = setting(1.0, low=1, high=8)  # 1 = squares alone; 2 = buckets from 1:2 to 2:1
    upscale: bool = False  # enlarge pictures that are too small, in place of leaving them out
    max_bad_rows: float = setting(0.05, low=0, high=1)  # share of rows that cannot be used, beyond which the run stops
    cache: str = "off"  # folder of `metabridge data cache`
    workers: int = setting(-1, low=-1)  # processes that prepare batches, a training process; 0 = a thread of it, -1 = by the machine

    def __post_init__(self) -> None:
        if self.schedule == "wsd" and not self.decay:
            raise UserError(
                "train.schedule: wsd given without train.decay, the share of the steps over which the rate falls; set it to 0.1"
            )
        if self.schedule != "wsd" and self.decay:
            raise UserError(
                f"train.decay: {self.decay:g} given, but it has no effect with schedule {self.schedule}; leave it out, or use wsd"
            )
        if self.schedule == "constant" and self.min_lr:
            raise UserError(f"train.min_lr: {self.min_lr:g} given, but a constant rate does not fall; leave it out, or use cosine or wsd")


@dataclass(frozen=True)
class Log:
    wandb: str = setting("off", choices=("off", "offline", "online"))
    every: int = setting(10, low=0)  # steps between lines of metrics.jsonl; 0 = never
    sample_every: int = setting(500, low=0)  # steps between sample sheets; 0 = never
    prompts: tuple[str, ...] = ()  # of the sample sheet; none = the first prompts of the data
    validate_every: int = setting(0, low=0)  # steps between losses on rows that are held out; 0 = never
    validate_rows: int = setting(64, low=4)
    diagnose_every: int = setting(500, low=0)  # steps between looks at whether the hand listens to the bridge; 0 = never
    benchmark: str = "none"  # a suite of `metabridge eval`, drawn and scored in the middle of the training
    benchmark_every: int = setting(500, low=1)
    benchmark_limit: int = setting(8, low=1)  # prompts a tag or kind
