"""What an evaluation will take: pictures, judge calls, time; and how much it will be able to tell."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from metabridge.scripts.console import say

if TYPE_CHECKING:
    from metabridge.eval.plan import Plan
    from metabridge.eval.subjects import Subject


def say_plan(planned: Plan, folder: Path) -> None:
    measured, samples = planned.benchmark, planned.samples()
    counts = ", ".join(f"{row} {sum(s.row == row for s in samples)}" for row in planned.rows)
    module, options = planned.definition.scorer_module(), planned.definition.scorer_options
    calls = sum(module.calls(options, sample.item) for sample in samples)
    say(
        f"{measured['name']} v{measured['version']}: {len(planned.items)} prompts x {measured['images_per_prompt']}, "
        f"{len(samples)} pictures ({counts}){f', {calls} judge calls' if calls else ''} into {folder}"
    )
    say_width(planned)


def say_width(planned: Plan) -> None:
    """How wide the interval of the headline will be at most: with pictures of a prompt that are all alike, half of them right."""
    from metabridge.eval import stats

    metric, measured = planned.definition.metrics[0], planned.benchmark
    if metric.within == "set" or metric.high is None:
        return
    for name, part in planned.definition.parts.items():
        sizes = {group: number for group, number in measured["prompts"].items() if part.holds(group)}
        width = metric.high - metric.low
        most = stats.expected(sizes, measured["images_per_prompt"], metric.weights, spread=width / 2)
        what = part.title or (metric.title or metric.name if len(planned.definition.parts) == 1 else name)
        digits = metric.digits
        say(
            f"{what}: the 95% interval will be +-{most.half_width:.{digits}f} at most; two models on these prompts must differ by about "
            f"{most.detectable:.{digits}f} for that to be seen in four of five cases"
        )


def say_time(planned: Plan, subject: Subject) -> None:
    """One picture of each way to draw is drawn, and not kept, to say how long all of them will take."""
    if subject.identity["kind"] not in ("bridge", "diffusers"):
        return  # pictures that lie there take no time, and those of an endpoint may cost money
    from metabridge.eval.generate import SETTINGS
    from metabridge.eval.sources import sources

    seconds = 0.0
    settings = {key: value for key, value in planned.identity["generation"].items() if key in SETTINGS}
    for row in planned.rows:
        samples = [sample for sample in planned.samples() if sample.row == row]
        if samples and not (samples[0].item.images and planned.definition.data):  # files may not be there yet
            start = time.monotonic()
            subject.draw(row, samples[:1], [sources(planned.definition, samples[0].item, None)], settings)
            pictures = sum(max(1, len(sample.item.turns)) for sample in samples)
            seconds += (time.monotonic() - start) * pictures / max(1, len(samples[0].item.turns))
    if seconds:
        say(f"at most about {seconds / 60:.0f} minutes of drawing, going by one picture of each way; several at once go faster")
