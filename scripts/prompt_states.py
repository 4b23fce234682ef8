"""A brain whose "queries" are its own states of the prompt's last tokens: what learnable queries are compared with in an ablation.

In a recipe: `brain: {name: metabridge.scripts.prompt_states, repo: ...}`; `connector.queries` says how many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from metabridge.adapters.brains import auto
from metabridge.bridge.interfaces import Inputs, Memory


class PromptStates(auto.AutoBrain):
    @torch.no_grad()
    def read(self, inputs: Inputs, memory: Memory | None = None, depth: int | None = None) -> Memory:
        """The Memory's cache holds the output of every layer, [B, L, D] each: of layer 1 first, after the final norm last."""
        if memory is not None:
            raise ValueError("states of a prompt are not extended")
        inputs = {name: x.to(self.text.device) for name, x in inputs.items()}
        states = self.model(**inputs, output_hidden_states=True, use_cache=False).hidden_states[1:]
        mask = inputs["attention_mask"]
        return Memory([(state * mask[..., None],) for state in states], mask, mask.sum(dim=1), None, depth)

    def query(self, memory: Memory, queries: Tensor, taps: Sequence[int]) -> Tensor:
        """The last N tokens of the prompt, [B, N, T*D]; zeros where it has fewer. The queries are not used."""
        states: list[Tensor] = [memory.cache[-1 if tap == -1 else tap - 1][0] for tap in taps]
        tapped = [state if tap == -1 else F.rms_norm(state, (self.width,)) for tap, state in zip(taps, states, strict=True)]
        last = torch.cat(tapped, dim=-1)[:, -len(queries) :]
        return F.pad(last, (0, 0, len(queries) - last.shape[1], 0)) + 0 * queries.sum()  # so that they have a gradient: zero


def load(repo: str, revision: str = "main", dtype: str = "float32", weights: str = "pretrained") -> PromptStates:
    brain = auto.load(repo, revision, dtype, weights)
    return PromptStates(brain.model, brain.collate, brain.identity)
