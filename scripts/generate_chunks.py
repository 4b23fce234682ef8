"""Pictures are drawn in chunks: the last bits of one depend on those that it is drawn with, and on nothing else that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from metabridge.scripts.generate_asked import Job

if TYPE_CHECKING:
    from metabridge.bridge.interfaces import Example
    from metabridge.bridge.pipeline import BridgePipeline

Settings = dict[str, Any]  # in the words of the pipeline's call


@dataclass(frozen=True)
class Chunk:
    """One call of the pipeline: `each` pictures of every prompt."""

    jobs: tuple[Job, ...]
    each: int
    seeds: tuple[int, ...]  # one a picture, prompt after prompt
    batch_size: int

    def job(self, index: int) -> Job:
        """Of a picture."""
        return self.jobs[index // self.each]


def cut(jobs: Sequence[Job], count: int, batch_size: int) -> list[Chunk]:
    """`count` pictures of each job, picture k with its seed + k: whole prompts together, or where one fills a chunk its parts."""
    if count > batch_size:
        starts = range(0, count, batch_size)
        return [_chunk([job], start, min(batch_size, count - start), batch_size) for job in jobs for start in starts]
    together = batch_size // count
    return [_chunk(jobs[start : start + together], 0, count, batch_size) for start in range(0, len(jobs), together)]


def _chunk(jobs: Sequence[Job], first: int, each: int, batch_size: int) -> Chunk:
    return Chunk(tuple(jobs), each, tuple(job.seed + first + k for job in jobs for k in range(each)), batch_size)


def thought_over(pipeline: BridgePipeline, jobs: Sequence[Job], mode: str, budget: int) -> list[Job]:
    """The jobs with their thoughts. A picture is drawn from a thought that is read, never while it is written: so it can be drawn again."""
    waiting = [k for k, job in enumerate(jobs) if job.thought is None]
    done = list(jobs)
    for start in range(0, len(waiting), pipeline.batch_size):
        chunk = waiting[start : start + pipeline.batch_size]
        pictures = [[source.image for source in jobs[k].sources] for k in chunk]
        for k, thought in zip(chunk, pipeline.think([jobs[k].prompt for k in chunk], pictures, mode, budget), strict=True):
            done[k] = replace(jobs[k], thought=thought, rewritten=mode == "rewrite")
    return done


def example_of(job: Job) -> Example:
    """What is read of a job before its queries."""
    from metabridge.bridge.interfaces import Example

    images = tuple(source.image for source in job.sources)
    # where nothing was said the prompt stands
    return Example(job.thought or job.prompt, images) if job.rewritten else Example(job.prompt, images, thought=job.thought)


def draw(pipeline: BridgePipeline, chunk: Chunk, settings: Settings, callback: Callable[..., Any] | None = None) -> list[Image.Image]:
    examples = [example_of(job) for job in chunk.jobs]
    pipeline.batch_size = chunk.batch_size
    if not any(example.images for example in examples):
        settings = settings | {"image_guidance_scale": 1.0}  # others of the list have pictures
        if settings["guidance_scale"] == 1.0:
            settings["negative_prompt"] = None  # it is for those, too
    output = pipeline(
        [example.prompt for example in examples],
        image=[example.images for example in examples],
        thought=[example.thought for example in examples],
        num_images_per_prompt=chunk.each,
        seeds=chunk.seeds,
        callback_on_step_end=callback,
        **settings,
    )
    return output.images
