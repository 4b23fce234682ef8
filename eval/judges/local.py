"""An image-text-to-text model of transformers in this process: greedy, one question at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors import SafetensorError
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from metabridge.bridge.artifact import fingerprint, is_local
from metabridge.bridge.errors import UserError
from metabridge.eval.calls import Budget, one_line
from metabridge.eval.judges import JudgeError, Request
from metabridge.eval.judges.answers import Answer, without_thought
from metabridge.eval.judges.pictures import fitted

_TEMPLATE = "chat_template_kwargs"  # of a request's extra, as vLLM calls it; the one that has a meaning here


class Local:
    """The same question gives the same answer. Weights are kept in the type the checkpoint has."""

    concurrency = 1

    def __init__(self, repo: str, revision: str = "", *, budget: Budget | None = None, device: str | None = None) -> None:
        """`repo`: a hub id or a folder. `device`: by default the GPU where there is one."""
        path = str(Path(repo).expanduser()) if is_local(repo) else repo
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._budget, self._lock = budget or Budget(), Lock()
        try:
            self._processor = _processor(repo, path, revision or "main")
            model = _model(path, revision or "main")
            self._tokenizer = self._processor.tokenizer
            self._ends = _ends(model, self._tokenizer)
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            advice = "give the folder of a whole checkpoint" if is_local(repo) else "check the name, the network and your access to it"
            raise UserError(f"judge local:{repo}: cannot be loaded ({one_line(str(error))}); {advice}") from error
        # what a checkpoint asks for when it samples, as a repetition penalty, would bend the greedy answer
        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._ends[0]
        model.generation_config = transformers.GenerationConfig(eos_token_id=self._ends, pad_token_id=pad)
        # the folder's place is this machine's affair, and weights say more than the word main
        self.identity: Mapping[str, Any] = {
            "kind": "local",
            "id": Path(path).resolve().name if is_local(repo) else repo,
            "revision": fingerprint(model.state_dict())[:16],
            "host": None,
            "dtype": str(model.dtype).removeprefix("torch."),
        }
        self._model = model.to(self.device)

    def ask(self, request: Request, attempt: int = 0) -> str:
        if request.temperature:
            raise UserError(f"judge local: answers greedily, but temperature {request.temperature:g} is asked for; use an endpoint")
        if unknown := sorted(set(request.extra) - {_TEMPLATE}):
            raise UserError(f"judge local: {unknown[0]} of a request means nothing to it; use an endpoint, or leave it out")
        with self._lock:
            self._budget.take()
            try:
                tokens = self._reply(request)
            except (torch.OutOfMemoryError, ValueError) as error:  # ValueError: a picture that its processor refuses
                raise JudgeError(one_line(str(error))) from error
        if tokens[-1] not in self._ends:
            raise JudgeError(f"the answer was cut off at max_tokens={request.max_tokens}; allow more of them, or switch thinking off")
        text = without_thought(self._tokenizer.decode(tokens[:-1], skip_special_tokens=True))
        if not text:
            raise JudgeError("empty answer")
        return Answer(text, self.identity["id"], {"completion_tokens": len(tokens)})

    @torch.inference_mode()
    def _reply(self, request: Request) -> list[int]:
        """The tokens that follow the request, its end among them."""
        messages = [
            {"role": message.role, "content": [_part(part, request.max_side) for part in message.content]} for message in request.messages
        ]
        inputs = self._processor.apply_chat_template(
            [messages],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
            **request.extra.get(_TEMPLATE, {}),
        ).to(self.device, self._model.dtype)
        output = self._model.generate(**inputs, do_sample=False, max_new_tokens=request.max_tokens)
        said: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
        return said


def _part(part: str | Image.Image, max_side: int | None) -> dict[str, Any]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": fitted(part, max_side)}


def _model(path: str, revision: str) -> Any:
    model, found = transformers.AutoModelForImageTextToText.from_pretrained(path, revision=revision, output_loading_info=True)
    if missing := found["missing_keys"]:  # which would be drawn at random
        raise ValueError(f"{len(missing)} tensors missing, the first is {min(missing)}")
    return model.eval().requires_grad_(False)


def _processor(repo: str, path: str, revision: str) -> Any:
    """The processor without its video half, which would need torchvision; pictures always through Pillow, the same everywhere."""
    config = transformers.AutoConfig.from_pretrained(path, revision=revision)
    if type(config) not in PROCESSOR_MAPPING:
        raise UserError(f"judge local:{repo}: a {config.model_type} sees no pictures; name an image-text-to-text model")
    try:
        whole: Any = PROCESSOR_MAPPING[type(config)]
        kept = [name for name in whole.get_attributes() if name != "video_processor"]
        image_only: Any = type(whole.__name__, (whole,), {"get_attributes": classmethod(lambda cls: kept), "__module__": whole.__module__})
        processor = image_only.from_pretrained(path, revision=revision, backend="pil")
    except (ImportError, AttributeError, TypeError) as error:  # a few families insist on it
        raise UserError(
            f"judge local:{repo}: the processor of a {config.model_type} cannot be had without torchvision ({one_line(str(error))}); "
            "serve the model and give URL#MODEL"
        ) from error
    if not getattr(processor, "chat_template", None):
        raise UserError(f"judge local:{repo}: has no chat template; take an instruction-tuned checkpoint")
    return processor


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer."""
    own = model.generation_config.eos_token_id
    ends = {token for token in (*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id) if token is not None}
    if not ends:
        raise ValueError("names no token that ends an answer")
    return sorted(ends)
