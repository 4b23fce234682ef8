"""Keys and values that have been read, as plain tuples that nothing can grow; each pass gets its own view of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

KeysValues = tuple[tuple[Tensor, Tensor], ...]  # a pair for each layer, [B, heads, L, head_dim]


class ReadOnlyLayer(DynamicLayer):
    """Gives what was read and what is new, and keeps nothing: no graph of one pass stays for the next."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def growing(read: KeysValues | None = None) -> Cache:
    """A cache that starts from what was read; growing it makes new tensors and leaves the old ones as they were."""
    return DynamicCache() if read is None else Cache(layers=[_filled(DynamicLayer, *pair) for pair in read])


def read_only(read: KeysValues) -> Cache:
    """A cache for one pass of queries."""
    return Cache(layers=[_filled(ReadOnlyLayer, *pair) for pair in read])


def contents(cache: Cache) -> KeysValues:
    return tuple((layer.keys, layer.values) for layer in cache.layers)


def _filled(kind: type[DynamicLayer], keys: Tensor, values: Tensor) -> DynamicLayer:
    layer = kind()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer
