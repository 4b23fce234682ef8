"""Processors of text and pictures without their video half, which would need torchvision."""

from __future__ import annotations

from typing import Any


def load_processor(path: str, revision: str = "main") -> Any:
    """The processor of a multimodal checkpoint, always with the PIL backend: the same numbers on every machine."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    config = transformers.AutoConfig.from_pretrained(path, revision=revision)
    if type(config) not in PROCESSOR_MAPPING:
        return transformers.AutoTokenizer.from_pretrained(path, revision=revision)
    return image_only(PROCESSOR_MAPPING[type(config)]).from_pretrained(path, revision=revision, backend="pil")


def image_only(processor_class: type[Any]) -> type[Any]:
    """The processor class less its video processor, under the same name, so that save_pretrained writes the real one."""
    attributes = [name for name in processor_class.get_attributes() if name != "video_processor"]
    return type(
        processor_class.__name__,
        (processor_class,),
        {"get_attributes": classmethod(lambda cls: list(attributes)), "__module__": processor_class.__module__},
    )
