"""What the layers of a decoder have read, as plain tuples that nothing can grow; each pass gets its own view of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

# For each layer that was run: its keys and values [B, heads, L, head_dim], then the states [B, ...] of its convolutions and of its
# recurrences. Most layers have only the one or the other; () is a layer that keeps nothing of its own.
Read = tuple[tuple[Tensor, ...], ...]

WINDOWED = (DynamicSlidingWindowLayer, LinearAttentionAndSlidingWindowAttentionLayer)
KNOWN = (*WINDOWED, DynamicLayer, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer, DummyLayer)


class ReadOnlyAttention(DynamicLayer):
    """Gives what was read and what is new, and keeps nothing: no graph of one pass stays for the next."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


class ReadOnlyStates(LinearAttentionLayer):
    """The same for convolutions and recurrences."""

    def update_conv_state(self, conv_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        return torch.cat([self.conv_states[state_idx], conv_states], dim=-1)

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        return recurrent_states


class ReadOnlyBoth(ReadOnlyStates, ReadOnlyAttention, LinearAttentionAndFullAttentionLayer):
    pass


class CacheLayout:
    """What each layer of a decoder keeps: keys and values, states, both or neither."""

    def __init__(self, config: Any) -> None:
        """Of a decoder's config; ValueError for a kind of layer that is not known here."""
        kinds = [(type(layer), getattr(layer, "number_of_states", 0)) for layer in DynamicCache(config=config).layers]
        if unknown := {kind.__name__ for kind, _ in kinds if kind not in KNOWN}:
            raise ValueError(f"its layers keep what they read in a way of their own ({', '.join(sorted(unknown))})")
        self.layers = [(issubclass(kind, DynamicLayer), states) for kind, states in kinds]
        self.recurrent = any(states for _, states in self.layers)
        self.gapless = self.recurrent or any(kind in WINDOWED for kind, _ in kinds)  # padding must not stand between tokens

    def growing(self, read: Read = ()) -> Cache:
        """A cache that starts from what was read; growing it leaves that as it was.

        Windows are left to the mask: a layer that let go of what has left its window could not be put in order after a reply.
        """
        return self._cache(read, DynamicLayer, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer)

    def read_only(self, read: Read) -> Cache:
        """A cache for one pass of queries."""
        return self._cache(read, ReadOnlyAttention, ReadOnlyStates, ReadOnlyBoth)

    def contents(self, cache: Cache, depth: int | None = None) -> Read:
        return tuple(_keys_values(layer) + _states(layer) for layer in cache.layers[:depth])

    def states(self, cache: Cache) -> list[tuple[Tensor, ...]]:
        """A copy of every layer's states, which the next token may overwrite in place."""
        return [tuple(state.clone() for state in _states(layer)) for layer in cache.layers]

    def put_back(self, cache: Cache, states: list[tuple[Tensor, ...]], rows: Tensor) -> None:
        """Give `rows` [B] back the states they had: a mask hides a token from attention, not from a recurrence."""
        for layer, old in zip(cache.layers, states, strict=True):
            for now, before in zip(_states(layer), old, strict=True):
                now[rows] = before[rows]

    def without_gaps(self, read: Read, mask: Tensor) -> tuple[Read, Tensor]:
        """Padding that came to stand between tokens moved to the left of them: a window counts places, whatever is in them."""
        order = mask.argsort(dim=1, stable=True)  # [B, L]
        moved = tuple(
            tuple(x.gather(2, order[:, None, :, None].expand_as(x)) for x in tensors[:2]) + tensors[2:] if attends and tensors else tensors
            for (attends, _), tensors in zip(self.layers, read, strict=False)
        )
        return moved, mask.gather(1, order)

    def _cache(self, read: Read, attention: Any, states: Any, both: Any) -> Cache:
        """Of all layers, however few were run: a model asks its first attention layer for the length, wherever that stands."""
        layers: list[Any] = []
        for attends, count in self.layers:
            kind = (both if attends else states) if count else attention if attends else DummyLayer
            layers.append(kind(number_of_states=count) if count else kind())
        for layer, tensors in zip(layers, read, strict=False):
            _fill(layer, tensors)
        return Cache(layers=layers)


def length(cache: Cache) -> int | None:
    """How many tokens its keys and values are of; None where no layer keeps any."""
    return next((layer.keys.shape[-2] for layer in cache.layers if _keys_values(layer)), None)


def _keys_values(layer: Any) -> tuple[Tensor, ...]:
    return (layer.keys, layer.values) if isinstance(layer, DynamicLayer) and layer.keys is not None else ()


def _states(layer: Any) -> tuple[Tensor, ...]:
    if not isinstance(layer, LinearAttentionLayer):
        return ()
    return tuple(state for states in (layer.conv_states, layer.recurrent_states) for state in states.values() if state is not None)


def _fill(layer: Any, tensors: tuple[Tensor, ...]) -> None:
    if isinstance(layer, DynamicLayer) and tensors:
        DynamicLayer.lazy_initialization(layer, *tensors[:2])
        (layer.keys, layer.values), tensors = tensors[:2], tensors[2:]
    if isinstance(layer, LinearAttentionLayer):
        count = layer.number_of_states
        for k, state in enumerate(tensors):
            kind = {"conv_states": state} if k < count else {"recurrent_states": state}
            LinearAttentionLayer.lazy_initialization(layer, state_idx=k % count, **kind)
            (layer.conv_states if k < count else layer.recurrent_states)[k % count].copy_(state)
            layer.has_previous_state[k % count] = True
