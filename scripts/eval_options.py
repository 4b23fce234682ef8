"""What `metabridge eval` was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from metabridge.bridge.errors import UserError


@dataclass(frozen=True)
class Options:
    """None is the benchmark's, the judge's or the hand's default."""

    # what is drawn and how
    suite: str | None = None
    limit: tuple[str, ...] = ()  # "20", "reasoning=8", "single=40"
    images: int | None = None
    rows: str | None = None  # "bridge,think"
    baseline: bool = True
    steps: int | None = None
    guidance: float | None = None
    size: str | None = None  # "512" or "512x768" (height x width)
    seeds: str | None = None
    quantize: str | None = None
    max_image_calls: int | None = None
    # how it is scored
    data: Path | None = None
    accept_licence: tuple[str, ...] = ()
    judge: str | None = None
    judge_concurrency: int | None = None
    judge_timeout: float | None = None
    max_judge_calls: int | None = None
    model: tuple[str, ...] = ()  # "detector=PATH"
    compat: str | None = None
    device: str | None = None
    allow_incomplete: bool = False
    # how the work is split
    shard: str | None = None  # "1/3"
    processes: int | None = None

    def check(self) -> None:
        """Refuse what cannot be read or means nothing, before anything is loaded."""
        self.limits, self.models, self.sides, self.part  # noqa: B018  # each refuses what it cannot read
        for name, number, least in (("guidance", self.guidance, 0.0), ("judge-timeout", self.judge_timeout, 0.1)):
            if number is not None and not (math.isfinite(number) and number >= least):
                raise UserError(f"--{name} {number:g}: it is a number, {least:g} at least")
        if self.compat not in (None, "none", "official"):
            raise UserError(f"--compat {self.compat}: it is none or official")

    def words(self, *only: str) -> list[str]:
        """As they are written on the command line; all, or `only` these."""
        words = []
        for field in fields(self):
            value, option = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if value == field.default or (only and field.name not in only):
                continue
            if isinstance(value, bool):
                words.append(option if value else f"--no-{field.name}")
            else:
                for one in value if isinstance(value, tuple) else (value,):
                    words += [option, f"{one:g}" if isinstance(one, float) else str(one)]
        return words

    def refuse_all_but(self, allowed: Sequence[str], stage: str, why: str) -> None:
        others = [field.name for field in fields(self) if field.name not in allowed]
        if given := self.words(*others):
            raise UserError(f"{given[0]}: has no effect on {stage}; {why}")

    @property
    def limits(self) -> dict[str, int]:
        """("20", "single=40") -> {"all": 20, "single": 40}."""
        found = {}
        for word in self.limit:
            name, equals, number = word.rpartition("=")
            if not number.isdecimal() or (equals and not name):
                raise UserError(f"--limit {word}: give a number of prompts, as 20, or one of a part, tag or kind, as reasoning=8")
            found[name or "all"] = int(number)
        return found

    @property
    def models(self) -> dict[str, str]:
        """("detector=PATH",) -> {"detector": PATH}."""
        pairs = [word.partition("=") for word in self.model]
        if wrong := next((name + equals + path for name, equals, path in pairs if not (name and equals and path)), None):
            raise UserError(f"--model {wrong}: write ROLE=FOLDER_OR_REPO, as detector=models/mask2former")
        return {name: path for name, _, path in pairs}

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width."""
        if self.size is None:
            return None
        sides = self.size.lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise UserError(f"--size {self.size}: write one side, as 512, or height and width, as 512x768")
        return int(sides[0]), int(sides[-1])

    @property
    def part(self) -> tuple[int, int]:
        """Which of how many shards: (0, 1) is everything."""
        if self.shard is None:
            return 0, 1
        number, slash, of = self.shard.partition("/")
        if not slash or not (number.isdecimal() and of.isdecimal()) or not 1 <= int(number) <= int(of):
            raise UserError(f"--shard {self.shard}: write the number of this part and of all, as 1/3, 2/3 and 3/3")
        return int(number) - 1, int(of)
