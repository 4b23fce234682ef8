"""Processors of text and pictures without their video half, which would need torchvision."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metabridge.bridge.errors import UserError

log = logging.getLogger(__name__)

TEXT_ONLY = {"llama4"}


def load_processor(path: str, revision: str = "main", trust_remote_code: bool = False) -> Any:
    """The processor of a multimodal checkpoint, always with the PIL backend: the same numbers on every machine."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    config = transformers.AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    if config.model_type in TEXT_ONLY:
        log.warning("the picture processor of a %s needs torchvision, which is not used here: it reads text only", config.model_type)
    if type(config) not in PROCESSOR_MAPPING or config.model_type in TEXT_ONLY:
        return transformers.AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    try:
        return image_only(processor_class_of(config)).from_pretrained(path, revision=revision, backend="pil")
    except (ImportError, AttributeError, TypeError) as error:  # of a family that no test covers
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: the processor of a {config.model_type} cannot be had without its video half ({reason})") from error


def processor_class_of(config: Any) -> type[Any]:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, PROCESSOR_MAPPING_NAMES

    if PROCESSOR_MAPPING_NAMES.get(config.model_type) == "PixtralProcessor":
        return _pixtral_processor()
    found: type[Any] = PROCESSOR_MAPPING[type(config)]
    return found


def image_only(processor_class: type[Any]) -> type[Any]:
    """The processor class less its video processor, under the same name, so that save_pretrained writes the real one."""
    attributes = [name for name in processor_class.get_attributes() if name != "video_processor"]
    namespace = {"get_attributes": classmethod(lambda cls: list(attributes)), "__module__": processor_class.__module__}
    bases: tuple[type[Any], ...] = (processor_class,)
    if processor_class.__name__ == "SmolVLMProcessor":
        namespace |= _smolvlm_without_videos(processor_class)
    if processor_class.__name__ == "Gemma4Processor":
        bases, namespace = _gemma4_without_videos(processor_class, namespace)
    return type(processor_class.__name__, bases, namespace)


def _smolvlm_without_videos(processor_class: type[Any]) -> dict[str, Any]:
    """Its constructor wants a video processor, and num2words, which spells how many frames a video has; its chats ask for a frame rate."""

    class NoVideos:
        num_frames = fps = None

    def __init__(self: Any, image_processor: Any, tokenizer: Any, image_seq_len: int = 169, chat_template: str | None = None) -> None:
        with _standing_in(vars(sys.modules[processor_class.__module__]), "num2words", str):
            processor_class.__init__(self, image_processor, tokenizer, None, image_seq_len, chat_template)

    return {"__init__": __init__, "video_processor": NoVideos}


def _gemma4_without_videos(processor_class: type[Any], namespace: dict[str, Any]) -> tuple[tuple[type[Any], ...], dict[str, Any]]:
    """Its constructor wants a video processor and hands it on to the base class, which takes only what is an attribute."""
    from transformers.processing_utils import ProcessorMixin

    class WithoutVideos(ProcessorMixin):
        def __init__(self, *args: Any, video_processor: None = None, **options: Any) -> None:
            super().__init__(*args, **options)

    # what a processor's file says reaches only parameters that have a name
    def __init__(
        self: Any, feature_extractor: Any, image_processor: Any, tokenizer: Any, chat_template: Any = None, image_seq_length: int = 280
    ) -> None:
        processor_class.__init__(self, feature_extractor, image_processor, tokenizer, None, chat_template, image_seq_length)

    return (processor_class, WithoutVideos), namespace | {"__init__": __init__}


def _pixtral_processor() -> type[Any]:
    """Its module takes one function from the torchvision half of the family; the PIL half has the same."""
    family = "transformers.models.pixtral"
    pil = importlib.import_module(f"{family}.image_processing_pil_pixtral")
    with _standing_in(sys.modules, f"{family}.image_processing_pixtral", pil):
        module = importlib.import_module(f"{family}.processing_pixtral")
    found: type[Any] = module.PixtralProcessor
    return found


@contextmanager
def _standing_in(names: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    """`name` means `value` here, unless it already means something."""
    before = names.get(name)
    names[name] = before or value
    try:
        yield
    finally:
        if before is not None:
            names[name] = before
        else:
            del names[name]
