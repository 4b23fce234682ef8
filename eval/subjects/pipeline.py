"""Any diffusers pipeline that draws from text, called as its own users call it: a bridge's hand under its own text encoder among them."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from metabridge.bridge.errors import UserError, unknown
from metabridge.eval.benchmarks import Benchmark
from metabridge.eval.items import MODEL_ERROR
from metabridge.eval.plan import Sample
from metabridge.eval.subjects import Drawing
from metabridge.eval.subjects.asked import refuse_rows, refuse_settings

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
NO_PROMPT = " "  # what stands for a negative prompt where guidance would be off without one


class PipelineSubject:
    """One picture at a time: what stands beside a prompt in a batch cannot change it."""

    alone = True

    def __init__(self, name: str, pipeline: Any, identity: Mapping[str, Any]) -> None:
        self._pipeline, self._kind = pipeline, type(pipeline).__name__
        self._parameters = inspect.signature(type(pipeline).__call__).parameters
        self.name = f"diffusers:{name}"
        self.identity: Mapping[str, Any] = {"kind": "diffusers", "name": name, **identity, "pipeline": self._kind}
        self._words = {name: word for name in _SETTINGS if (word := _word(name, self._parameters, pipeline))}
        for name in ("prompt", "generator"):
            if name not in self._parameters:
                raise UserError(f"{self.name}: a {self._kind} takes no {name}; give a pipeline that draws from text, by a seed")

    def check(self, benchmark: Benchmark) -> None:
        """Whether it can draw the benchmark at all."""
        given = {"self", "prompt"} if benchmark.task == "t2i" else {"self", "prompt", "image"}
        if "image" in given and "image" not in self._parameters:
            raise UserError(self._takes_no_picture)
        if self._pipeline.components.get("text_encoder", self) is None:
            raise UserError(f"{self.name}: a {self._kind} without its text encoder cannot read prompts; give the whole pipeline")
        wanted = [
            name
            for name, parameter in self._parameters.items()
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name not in given
        ]
        if wanted:
            raise UserError(f"{self.name}: a {self._kind} needs {', '.join(wanted)} as well, which {benchmark.name} does not have")

    def generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The pipeline's own defaults stand in its signature; None there is what it makes of its parts."""
        refuse_settings(asked, self._words, f"a {self._kind}")
        defaults = {name: self._parameters[word].default for name, word in self._words.items()}
        return {name: default if asked[name] is None else asked[name] for name, default in defaults.items()}

    def draw(
        self, row: str, samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
    ) -> list[Drawing]:
        refuse_rows(samples)
        call = {self._words[name]: value for name, value in settings.items() if value is not None}
        if call.get("true_cfg_scale", 1.0) > 1:
            call["negative_prompt"] = NO_PROMPT
        return [self._draw(sample, own, call) for sample, own in zip(samples, images, strict=True)]

    def _draw(self, sample: Sample, images: Sequence[Image.Image], call: Mapping[str, Any]) -> Drawing:
        import torch

        given: dict[str, Any] = {}
        if images:
            if "image" not in self._parameters:
                raise UserError(self._takes_no_picture)
            given["image"] = images[0] if len(images) == 1 else list(images)
        # on the CPU, so that the noise does not depend on the device; a pipeline that draws some of it elsewhere is seeded, too
        generator = torch.Generator().manual_seed(sample.seed)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(sample.seed)
                output = self._pipeline(prompt=sample.item.text, generator=generator, output_type="np", **given, **call)
        except torch.OutOfMemoryError as error:
            raise UserError(f"{self.name}: out of memory; ask for smaller pictures with --size, or free the GPU") from error
        except ValueError as error:  # what a pipeline says of its inputs
            raise UserError(f"{self.name}: a {self._kind} refuses {sample.key} ({' '.join(str(error).split())})") from error
        pictures = getattr(output, "images", None)
        if pictures is None or len(pictures) != 1:
            drew = "no picture" if pictures is None else f"{len(pictures)} pictures"
            raise UserError(f"{self.name}: a {self._kind} gave {drew} for one prompt; give a pipeline that draws one picture from a text")
        if any(getattr(output, "nsfw_content_detected", None) or ()):
            return Drawing(None, state=MODEL_ERROR, reason="the pipeline's safety checker took the picture away")
        return _drawing(pictures[0])

    @property
    def _takes_no_picture(self) -> str:
        return f"{self.name}: a {self._kind} takes no picture, and one comes with each prompt; give a pipeline that edits"


_SETTINGS = ("num_inference_steps", "guidance_scale", "height", "width")


def _word(name: str, parameters: Mapping[str, inspect.Parameter], pipeline: Any) -> str | None:
    """What the pipeline calls a setting; None where it has none, or one without effect."""
    own = parameters.get(name)
    if name == "guidance_scale" and "true_cfg_scale" in parameters:
        # guidance_scale is then what a distilled denoiser is told; where it is None by default there is no such denoiser yet
        if own is None or own.default is None:
            return "true_cfg_scale"
        if not pipeline.transformer.config.guidance_embeds:
            return None
    return name if own is not None else None


def _drawing(picture: np.ndarray | Image.Image) -> Drawing:
    """[H, W, 3] in [0, 1] -> 8 bits; some pipelines give pictures whatever they are asked for."""
    if isinstance(picture, Image.Image):
        return Drawing(picture.convert("RGB"))
    if not np.isfinite(picture).all():
        return Drawing(None, state=MODEL_ERROR, reason="the picture has NaN or infinite pixels")
    return Drawing(Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8)))


def load(word: str, *, benchmark: Benchmark, device: str = "cpu", dtype: str | None = None) -> PipelineSubject:
    """REPO_OR_FOLDER[@REVISION]. `dtype`: float32, bfloat16 or float16; by default float32 on a CPU, bfloat16 elsewhere."""
    import torch

    from metabridge.bridge.artifact import is_local

    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    if dtype not in DTYPES:
        raise UserError(f"--dtype {unknown(dtype, DTYPES, 'type')}")
    repo, _, revision = word.partition("@") if not is_local(word) else (word, "", "")
    path = str(Path(repo).expanduser()) if is_local(repo) else repo
    if is_local(repo) and not (Path(path) / "model_index.json").is_file():
        raise UserError(f"diffusers:{word}: no model_index.json there; give a pipeline's folder, or a hub id")
    try:
        pipeline, digest = _pipeline(path, revision or "main", getattr(torch, dtype))
    except UserError:
        raise
    # the libraries know no limit to kinds where a folder is damaged or of another age
    except (OSError, ValueError, LookupError, ImportError, AttributeError, TypeError, RuntimeError) as error:
        whole = "see that the folder is whole and that all it needs is installed"
        advice = whole if is_local(repo) else "check the name, the network and your access to it"
        raise UserError(f"diffusers:{word}: cannot be loaded ({' '.join(str(error).split())[:200]}); {advice}") from error
    pipeline.set_progress_bar_config(disable=True)
    identity = {"fingerprint": digest, "revision": revision or "main", "dtype": dtype}
    subject = PipelineSubject(word, pipeline.to(device), identity)
    subject.check(benchmark)
    return subject


def _pipeline(path: str, revision: str, dtype: torch.dtype) -> tuple[Any, str]:
    import diffusers

    index = diffusers.DiffusionPipeline.load_config(path, revision=revision)
    models = {name: model for name, entry in index.items() if (model := _model(entry, path, name, revision, dtype)) is not None}
    absent = {name: None for name, entry in index.items() if entry in ([None, None], (None, None))}  # diffusers wants to be told
    pipeline = diffusers.DiffusionPipeline.from_pretrained(path, revision=revision, dtype=dtype, **models, **absent)
    return pipeline, _fingerprint(index, pipeline.components)


def _model(entry: Any, path: str, name: str, revision: str, dtype: torch.dtype) -> Any:
    """A part with weights, whole or not at all: the pipeline's own loader draws at random what a file lacks. None: another kind of part."""
    import diffusers
    import torch
    import transformers

    if not (isinstance(entry, list | tuple) and len(entry) == 2 and all(isinstance(word, str) for word in entry)):
        return None
    library, kind = entry
    known = {"diffusers": diffusers, "transformers": transformers}
    cls = getattr(known.get(library) or getattr(diffusers.pipelines, library, None), kind, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        return None
    model, found = cls.from_pretrained(path, subfolder=name, revision=revision, dtype=dtype, output_loading_info=True)  # type: ignore[attr-defined]
    # buffers are computed anew
    if missing := sorted(set(found["missing_keys"]) & {key for key, _ in model.named_parameters()}):
        raise ValueError(f"{name}: {len(missing)} tensors missing, the first is {missing[0]}")
    return model.eval()


def _fingerprint(index: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """sha256 over model_index.json, the weights of each part as artifact.fingerprint sees them, and the settings of diffusers' parts."""
    import torch

    from metabridge.bridge.artifact import fingerprint

    digest = hashlib.sha256(_settings(index))
    for name, part in sorted(parts.items()):
        digest.update(name.encode())
        if isinstance(config := getattr(part, "config", None), Mapping):
            digest.update(_settings(config))
        if isinstance(part, torch.nn.Module):
            digest.update(fingerprint(part.state_dict()).encode())
    return digest.hexdigest()


def _settings(config: Mapping[str, Any]) -> bytes:
    """Without where a file lay and which version wrote it."""
    kept = {key: value for key, value in config.items() if key == "_class_name" or not key.startswith("_")}
    return json.dumps(kept, sort_keys=True, default=str).encode()
