"""Llama 3.2 Vision: pictures stand beside the text and are looked at by cross-attention layers.

In transformers a token that sees no picture looks at all places of all pictures of its batch, and rows without any look as soon as their
mates have some. So that a row does not depend on its mates, rows are read apart by their number of pictures; and as a later picture would
change what earlier tokens looked at, a further turn is read together with what came before it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from metabridge.adapters.brains.auto import AutoBrain
from metabridge.adapters.collate import ChatCollate, Message
from metabridge.bridge.interfaces import Inputs, Memory

log = logging.getLogger(__name__)

PICTURES = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")  # [B, pictures, ...]
SEEN = "cross_attention_mask"  # [B, L, pictures, tiles], 1 = the token sees the tile


class MllamaCollate(ChatCollate):
    """Row by row: the processor takes no batch in which only some have pictures."""

    def _tokens_and_pixels(self, conversations: list[list[Message]]) -> Inputs:
        rows = []
        for conversation in conversations:
            if any(part["type"] == "image" for message in conversation for part in message["content"]):
                rows.append(_row(super()._tokens_and_pixels([conversation]), 0))
            else:
                rows.append({"input_ids": torch.tensor(self._token_ids([conversation])[0])})
        return _stacked(rows, self.tokenizer.pad_token_id)

    def _append(self, batch: Inputs, thoughts: list[list[int]]) -> Inputs:
        return _said(batch, thoughts, self.tokenizer.pad_token_id)


@dataclass(frozen=True)
class Parts:
    """What has been read, by number of pictures, and the inputs, from which it is read again with the next turn."""

    inputs: Inputs
    rows: tuple[Tensor, ...]  # of the batch, in each part
    memories: tuple[Memory, ...]
    seen: tuple[Tensor | None, ...]  # [rows, pictures, tiles] of what comes next; None = no picture


class MllamaBrain(AutoBrain):
    def __init__(self, model: Any, collate: ChatCollate, identity: dict[str, str]) -> None:
        super().__init__(model, collate, identity)
        self._seen: Tensor | None = None

    def read(self, inputs: Inputs, memory: Memory | None = None, depth: int | None = None) -> Memory:
        inputs = {name: x.cpu() for name, x in inputs.items()}  # as collated; each part goes to the model's device when it is read
        if memory is not None:
            log.info("a further turn: the conversation is read anew")
            inputs = _joined(memory.cache.inputs, inputs, self.filler)
        counts = _counts(inputs)
        rows = tuple((counts == count).nonzero()[:, 0] for count in counts.unique().tolist())
        parts = [_part(inputs, index, int(counts[index[0]])) for index in rows]
        memories = tuple(super(MllamaBrain, self).read(part, depth=depth) for part in parts)
        seen = tuple(part[SEEN][:, -1].to(self.text.device) if SEEN in part else None for part in parts)
        return _whole(Parts(inputs, rows, memories, seen))

    def query(self, memory: Memory, queries: Tensor, taps: Sequence[int]) -> Tensor:
        parts: Parts = memory.cache
        hidden = []
        for part, seen in zip(parts.memories, parts.seen, strict=True):
            with self._seeing(seen):
                hidden.append(super().query(part, queries, taps))
        return torch.cat(hidden)[_order(parts)]

    def blocks(self) -> list[nn.Module]:
        """None: how often a layer runs depends on how many pictures the rows have."""
        return []

    def say(self, memory: Memory, max_new_tokens: int = 64) -> tuple[list[list[int]], Memory]:
        parts: Parts = memory.cache
        said: list[list[int]] = []
        memories: list[Memory] = []
        for part, seen in zip(parts.memories, parts.seen, strict=True):
            with self._seeing(seen):
                tokens, grown = super().say(part, max_new_tokens)
            said, memories = said + tokens, [*memories, grown]
        said = [said[k] for k in _order(parts).tolist()]
        return said, _whole(replace(parts, inputs=_said(parts.inputs, said, self.filler), memories=tuple(memories)))

    def _decode(self, ids: Tensor, embeds: Tensor, mask: Tensor, position_ids: Tensor, cache: Any) -> Tensor:
        context = self._context(mask, position_ids, cache)
        if self._seen is not None:
            context[SEEN] = self._seen[:, None].expand(-1, embeds.shape[1], -1, -1)
        hidden: Tensor = self.base(inputs_embeds=embeds, **context).last_hidden_state
        return hidden

    def _layer_of(self, tap: int) -> int:
        """A layer that looks at pictures is passed over where there are none: the tap is what came to it."""
        over = self.text.cross_attention_layers if self._seen is None else ()
        return max(k for k in range(1, tap + 1) if k - 1 not in over)

    @contextmanager
    def _seeing(self, seen: Tensor | None) -> Iterator[None]:
        """What tokens without a mask of their own see: what the last token of the prompt saw."""
        self._seen = seen
        try:
            yield
        finally:
            self._seen = None


def _whole(parts: Parts) -> Memory:
    order, memories = _order(parts), parts.memories
    longest = max(memory.mask.shape[1] for memory in memories)
    mask = torch.cat([F.pad(memory.mask, (longest - memory.mask.shape[1], 0)) for memory in memories])
    last = None if memories[0].last is None else torch.cat([memory.last for memory in memories if memory.last is not None])[order]
    return Memory(parts, mask[order], torch.cat([memory.position for memory in memories])[order], last, memories[0].depth)


def _order(parts: Parts) -> Tensor:
    """From the parts' rows one after the other to the batch's."""
    return torch.cat(parts.rows).argsort()


def _counts(inputs: Inputs) -> Tensor:
    """Pictures of each row; id 0 is no picture."""
    if "aspect_ratio_ids" not in inputs:
        return torch.zeros(len(inputs["input_ids"]), dtype=torch.long)
    return (inputs["aspect_ratio_ids"] != 0).sum(dim=1)


def _part(inputs: Inputs, index: Tensor, count: int) -> Inputs:
    part = {name: inputs[name][index] for name in ("input_ids", "attention_mask")}
    if count:
        part |= {name: inputs[name][index, :count] for name in PICTURES} | {SEEN: inputs[SEEN][index, :, :count]}
    return part


def _row(inputs: Inputs, k: int) -> Inputs:
    """One row without its padding."""
    real, count = inputs["attention_mask"][k].bool(), int(_counts(inputs)[k])
    row = {"input_ids": inputs["input_ids"][k, real]}
    if count:
        row |= {name: inputs[name][k, :count] for name in PICTURES} | {SEEN: inputs[SEEN][k, real, :count]}
    return row


def _stacked(rows: list[Inputs], pad: int) -> Inputs:
    """Tokens padded on the left, pictures on the right."""
    ids = [row["input_ids"] for row in rows]
    batch = {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad, padding_side="left"),
        "attention_mask": pad_sequence([torch.ones_like(x) for x in ids], batch_first=True, padding_side="left"),
    }
    looking = [row for row in rows if SEEN in row]
    if not looking:
        return batch
    length, count = batch["input_ids"].shape[1], max(len(row["aspect_ratio_ids"]) for row in looking)
    for name in PICTURES:
        filled = [torch.zeros(count, *looking[0][name].shape[1:], dtype=looking[0][name].dtype) for _ in rows]
        for empty, row in zip(filled, rows, strict=True):
            if name in row:
                empty[: len(row[name])] = row[name]
        batch[name] = torch.stack(filled)
    tiles = looking[0][SEEN].shape[-1]
    seen = torch.zeros(len(rows), length, count, tiles, dtype=looking[0][SEEN].dtype)
    for k, row in enumerate(rows):
        if SEEN in row:
            tokens, pictures = row[SEEN].shape[:2]
            seen[k, length - tokens :, :pictures] = row[SEEN]
    return batch | {SEEN: seen}


def _said(inputs: Inputs, said: list[list[int]], pad: int) -> Inputs:
    """With tokens after each row, which see what its last one saw."""
    if not any(said):
        return inputs
    rows = []
    for k, tokens in enumerate(said):
        row = _row(inputs, k)
        row["input_ids"] = torch.cat([row["input_ids"], row["input_ids"].new_tensor(tokens)])
        if SEEN in row:
            row[SEEN] = torch.cat([row[SEEN], row[SEEN][-1:].expand(len(tokens), -1, -1)])
        rows.append(row)
    return _stacked(rows, pad)


def _joined(before: Inputs, after: Inputs, pad: int) -> Inputs:
    """Each row's turns one after the other; a token sees the pictures before it up to where the next ones come."""
    rows = []
    for k in range(len(before["input_ids"])):
        first, then = _row(before, k), _row(after, k)
        row = {"input_ids": torch.cat([first["input_ids"], then["input_ids"]])}
        tokens = len(then["input_ids"])
        if SEEN in first:
            row |= {name: first[name] for name in PICTURES}
            row[SEEN] = torch.cat([first[SEEN], first[SEEN][-1:].expand(tokens, -1, -1)])
        if SEEN in then:
            own = F.pad(then[SEEN], (0, 0, 0, 0, len(first["input_ids"]), 0))
            if SEEN in first:
                row |= {name: torch.cat([first[name], then[name]]) for name in PICTURES}
                own = torch.cat([row[SEEN] * (own.sum(dim=(1, 2), keepdim=True) == 0), own], dim=1)
            else:
                row |= {name: then[name] for name in PICTURES}
            row[SEEN] = own
        rows.append(row)
    return _stacked(rows, pad)
