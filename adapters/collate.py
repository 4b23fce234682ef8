"""Examples -> token ids and pixel values, in the brain's own chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from metabridge.adapters.pictures import MAX_PIXELS, MIN_PIXELS, plain
from metabridge.adapters.processors import load_processor
from metabridge.bridge.errors import UserError
from metabridge.bridge.examples import pictures
from metabridge.bridge.interfaces import Example, Inputs

Message = dict[str, Any]
SETTINGS = ("path", "revision", "think_template", "max_pixels", "trust_remote_code")  # what travels to a worker


class ChatCollate:
    """Pictures in order, then the text, then the generation prompt; always padded on the left.

    A picture may have any mode and size: it is turned upright as its EXIF says, made RGB (transparent = white), and scaled down to
    `max_pixels` before the brain's own processor sees it. A pickle or a copy holds the settings; the processor is loaded when it is
    first asked for.
    """

    def __init__(
        self, path: str, revision: str, think_template: str, max_pixels: int = MAX_PIXELS, trust_remote_code: bool = False
    ) -> None:
        if not isinstance(max_pixels, int) or max_pixels < MIN_PIXELS:
            raise UserError(
                f"brain.max_pixels: {max_pixels!r} given; a whole number from {MIN_PIXELS} (32 x 32) on, {MAX_PIXELS} by default"
            )
        self.path, self.revision, self.think_template, self.max_pixels = path, revision, think_template, max_pixels
        self.trust_remote_code = trust_remote_code

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in SETTINGS}

    @cached_property
    def processor(self) -> Any:
        processor = load_processor(self.path, self.revision, self.trust_remote_code)
        tokenizer = getattr(processor, "tokenizer", processor)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token  # as Llama's: any token will do behind a mask
        return processor

    @cached_property
    def tokenizer(self) -> Any:
        return getattr(self.processor, "tokenizer", self.processor)

    @cached_property
    def reads_images(self) -> bool:
        return hasattr(self.processor, "image_processor")

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        return tuple(token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special)

    def __call__(self, examples: Sequence[Example], *, think: bool = False) -> Inputs:
        conversations = [self._messages(example, think or example.thought is not None) for example in examples]
        thoughts = self._thought_ids(examples)
        if any(pictures(example) for example in examples):
            return self._append(self._tokens_and_pixels(conversations), thoughts)
        rows = [prompt + thought for prompt, thought in zip(self._token_ids(conversations), thoughts, strict=True)]
        return {
            "input_ids": self._pad([torch.tensor(row) for row in rows], self.tokenizer.pad_token_id),
            "attention_mask": self._pad([torch.ones(len(row), dtype=torch.long) for row in rows], 0),
        }

    def _messages(self, example: Example, think: bool) -> list[Message]:
        messages: list[Message] = []
        drawn: tuple[Image.Image, ...] = ()
        for turn in example.history:
            if turn.role == "assistant":
                messages.append(self._message("assistant", turn.text, ()))
                drawn += turn.images  # a chat model has seen pictures in the turns of users alone
                continue
            messages.append(self._message("user", self._asked(turn.text, turn.think), drawn + turn.images))
            drawn = ()
        return [*messages, self._message("user", self._asked(example.prompt, think), drawn + example.images)]

    def _asked(self, text: str, think: bool) -> str:
        return self.think_template.replace("{prompt}", text) if think else text

    def _check_words(self, what: str, text: str) -> None:
        for token in self.special_tokens:
            if token in text:
                raise UserError(f"{what}: holds the brain's special token {token}, which would end or change the turn; leave it out")

    def _message(self, role: str, text: str, images: Sequence[Image.Image]) -> Message:
        self._check_words("prompt", text)
        if not self.reads_images:
            if images:
                raise UserError("image: this brain reads text only; leave the pictures out or use a multimodal brain")
            return {"role": role, "content": text}
        pictures = [{"type": "image", "image": plain(image, self.max_pixels)} for image in images]
        return {"role": role, "content": [*pictures, {"type": "text", "text": text}]}

    def onward(self, before: Example, after: Example, *, think: bool = False) -> Inputs | None:
        """What `after` has beyond `before`, whose prompt and words have been read; None where the template writes those otherwise now."""
        prompt, said = self._rendered(self._messages(before, after.history[len(before.history)].think)), before.thought or ""
        whole = self._rendered(self._messages(after, think or after.thought is not None))
        rest = whole.removeprefix(prompt + said)
        # what was said has been read as tokens of its own
        if rest == whole or [i for part in (prompt, said, rest) for i in self._plain_ids(part)] != self._plain_ids(whole):
            return None
        new = pictures(after)[len(pictures(before)) :]
        if not new:
            batch = self.words(rest)
        else:
            shown = [plain(image, self.max_pixels) for image in new]
            with _taking(shown):
                found = self.processor(text=[rest], images=[shown], return_tensors="pt", add_special_tokens=False)
            batch = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        return self._append(batch, self._thought_ids([after]))

    def parted(self, whole: Inputs, other: Inputs) -> tuple[Inputs, Inputs, Inputs] | None:
        """Two rows that begin alike -> that beginning, with all pictures, and the text that each has after it; None where there is more."""
        ids, others = whole["input_ids"][0].tolist(), other["input_ids"][0].tolist()
        alike = next((k for k, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), min(len(ids), len(others)))
        kinds = next((whole[name] for name in ("mm_token_type_ids", "token_type_ids") if name in whole), None)
        if (
            not 0 < alike < min(len(ids), len(others))
            or (kinds is None and len(whole) > 2)
            or (kinds is not None and kinds[:, alike:].any())
        ):
            return None  # a further picture, or pictures whose tokens this brain's processor does not mark
        rest = [{name: row[name][:, alike:] for name in ("input_ids", "attention_mask")} for row in (whole, other)]
        return {name: x[:, :alike] if x.shape == whole["input_ids"].shape else x for name, x in whole.items()}, rest[0], rest[1]

    def words(self, text: str) -> Inputs:
        """Text that the brain itself has said, one row, without anything around it."""
        ids = torch.tensor([self._plain_ids(text)], dtype=torch.long).view(1, -1)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def text(self, tokens: Sequence[int]) -> str:
        said: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return said.strip()

    def _rendered(self, conversation: list[Message]) -> str:
        text: str = self.processor.apply_chat_template([conversation], tokenize=False, add_generation_prompt=True)[0]
        return text

    def _plain_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return ids

    def _token_ids(self, conversations: list[list[Message]]) -> list[list[int]]:
        texts = self.processor.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
        bos = self.tokenizer.bos_token
        # a template that writes the first token itself must not get it twice
        add_special_tokens = not (bos and texts[0].startswith(bos))
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=add_special_tokens, return_attention_mask=False)["input_ids"]
        return ids

    def _thought_ids(self, examples: Sequence[Example]) -> list[list[int]]:
        """Tokenised apart from the prompt, as a thought is when the brain says it."""
        told = [example.thought for example in examples if example.thought]
        for thought in told:
            self._check_words("thought", thought)
        ids = iter(self.tokenizer(told, add_special_tokens=False)["input_ids"] if told else [])
        return [next(ids) if example.thought else [] for example in examples]

    def _tokens_and_pixels(self, conversations: list[list[Message]]) -> Inputs:
        content = [part for turns in conversations for turn in turns for part in turn["content"] if part["type"] == "image"]
        with _taking([part["image"] for part in content]):
            batch = self.processor.apply_chat_template(
                conversations,
                tokenize=True,
                return_dict=True,
                add_generation_prompt=True,
                return_tensors="pt",
                processor_kwargs={"padding": True, "padding_side": "left"},
            )
        return {name: value for name, value in batch.items() if isinstance(value, Tensor)}

    def _append(self, batch: Inputs, thoughts: list[list[int]]) -> Inputs:
        """Each row's thought after its prompt, padded anew."""
        if not any(thoughts):
            return batch
        real = batch["attention_mask"].bool()
        appended = dict(batch)
        for name, tensor in batch.items():
            if tensor.shape != real.shape:
                continue  # pixels and the like
            values = {"input_ids": thoughts, "attention_mask": [[1] * len(t) for t in thoughts]}.get(name, [[0] * len(t) for t in thoughts])
            rows = [torch.cat([tensor[i][real[i]], tensor.new_tensor(values[i])]) for i in range(len(thoughts))]
            appended[name] = self._pad(rows, self.tokenizer.pad_token_id if name == "input_ids" else 0)
        return appended

    def _pad(self, rows: list[Tensor], value: int) -> Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")


@contextmanager
def _taking(shown: Sequence[Image.Image]) -> Iterator[None]:
    """What the brain's processor says of pictures that it does not take, in a line."""
    try:
        yield
    except ValueError as error:
        sizes = ", ".join("{} x {}".format(*image.size) for image in shown)
        raise UserError(f"image: the brain's own processor refuses pictures of {sizes} ({' '.join(str(error).split())})") from error
