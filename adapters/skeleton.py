"""A checkpoint's shape without its weights: its configs in a folder, its modules on torch's meta device."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from metabridge.bridge.errors import UserError

SHAPES = Path(str(files("metabridge.adapters"))) / "shapes"
_written: ContextVar[Path | None] = ContextVar("the folder that holds the configs of hub ids", default=None)


@dataclass(frozen=True)
class Shape:
    """The configs of a checkpoint on the hub, as public sources have them; adapters/shapes/<owner>--<name>.json."""

    repo: str
    source: tuple[str, ...]
    unconfirmed: tuple[str, ...]  # what no source of these says in so many words
    parts: Mapping[str, Mapping[str, Any]]  # file of the checkpoint -> what is in it


def shapes() -> list[str]:
    """Hub ids whose shape is known."""
    return sorted(path.stem.replace("--", "/") for path in SHAPES.glob("*.json"))


def shape(repo: str) -> Shape | None:
    path = SHAPES / f"{repo.replace('/', '--')}.json"
    if not path.is_file():
        return None
    tree = json.loads(path.read_text(encoding="utf-8"))
    return Shape(tree["repo"], tuple(tree["source"]), tuple(tree["unconfirmed"]), tree["parts"])


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside, the adapters' own load() builds from configs alone, on the meta device: no download, no memory, no tokenizer."""
    with TemporaryDirectory(prefix="metabridge-shapes-") as folder:
        token = _written.set(Path(folder))
        try:
            yield
        finally:
            _written.reset(token)


def active() -> bool:
    return _written.get() is not None


def configs_of(repo: str) -> str:
    """A folder with the configs of a hub id, in the checkpoint's own layout."""
    folder, known = _written.get(), shape(repo)
    assert folder is not None, "outside without_weights"
    if known is None:
        raise UserError(f"{repo}: its shape is not known here; give a folder that holds its configs, or one of: {', '.join(shapes())}")
    folder /= repo.replace("/", "--")
    for name, config in known.parts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def model_of_diffusers(model_class: Any, path: str, subfolder: str, dtype: torch.dtype) -> Any:
    """A part of a pipeline of diffusers."""
    with torch.device("meta"):
        model = model_class.from_config(model_class.load_config(path, subfolder=subfolder))
    return nn.Module.to(model, dtype)  # diffusers' own to() warns of the parts that from_pretrained would keep in float32


def model_of_transformers(auto_class: Any, config: Any, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """A model of transformers, with the one kind of attention that asks no mask for its values."""
    with torch.device("meta"):
        return auto_class.from_config(config, dtype=dtype, attn_implementation="eager", trust_remote_code=trust_remote_code)


def picture_tokens(path: str, width: int, height: int, trust_remote_code: bool = False) -> int | None:
    """Tokens of a prompt that one picture takes, as the processor itself counts them; None where it cannot be asked."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        if type(config) not in PROCESSOR_MAPPING:
            return None
        counted: int = _processor(path, config)._get_num_multimodal_tokens([(height, width)])["num_image_tokens"][0]
    except (OSError, ValueError, LookupError, AttributeError, TypeError, ImportError, UserError):
        return None  # no file of it here, or a family that wants words to count, or does not count
    return counted


def _processor(path: str, config: Any) -> Any:
    import transformers

    from metabridge.adapters.processors import image_only, load_processor, processor_class_of

    if (Path(path) / "tokenizer_config.json").is_file():
        return load_processor(path)
    processor_class = image_only(processor_class_of(config))
    file = Path(path) / "processor_config.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    settings = {
        name: told[name] for name in inspect.signature(processor_class.__init__).parameters if isinstance(told.get(name), int | str)
    }
    pictures = transformers.AutoImageProcessor.from_pretrained(path, backend="pil")
    return processor_class(image_processor=pictures, tokenizer=_marks(), **settings)


def _marks() -> Any:
    """A tokenizer of nothing but the marks that processors look up; a count needs no words."""
    import transformers
    from tokenizers import Tokenizer, models

    names = ("image", "video", "start_image", "end_image", "context_image", "vision_start", "vision_end")
    marks = {f"{name}_token": f"<{name}>" for name in names}
    words = models.WordLevel({mark: k for k, mark in enumerate([*marks.values(), "<unk>"])}, unk_token="<unk>")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), extra_special_tokens=marks)
