"""An untrained brain of any size, to measure without a checkpoint: tokenizer and architecture of `repo`, numbers of one's own.

In a recipe: `brain: {name: metabridge.scripts.bench_brain, repo: "package:flatland/brain", hidden: 896, layers: 24}`.
"""

from __future__ import annotations

import torch

from metabridge.adapters.brains import auto
from metabridge.bridge.artifact import fingerprint
from metabridge.bridge.errors import UserError

POSITIONS = 2**15  # prompt and queries together


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    hidden: int = 896,
    layers: int = 24,
    heads: int = 14,
    kv_heads: int = 2,
    mlp: int = 4864,
) -> auto.AutoBrain:
    """The defaults are the decoder of a model of half a billion parameters. `repo` is a Qwen2.5-VL of any size, as Flatland's brain."""
    if hidden % heads or heads % kv_heads or hidden // heads % 16:
        raise UserError(
            f"brain: hidden {hidden}, heads {heads}, kv_heads {kv_heads} do not go together; "
            "hidden is a multiple of heads, heads of kv_heads, and hidden / heads of 16"
        )
    brain = auto.load(repo, revision, dtype, weights="random")
    if (kind := brain.model.config.model_type) != "qwen2_5_vl":
        raise UserError(f"brain.repo: {repo} given, a {kind}; bench_brain takes a qwen2_5_vl, as package:flatland/brain")
    tree = brain.model.config.to_dict()
    part = hidden // heads // 16  # a sixteenth of a head; half a head is turned by time, height and width
    tree["text_config"] |= {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "layer_types": None,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": mlp,
        "max_position_embeddings": POSITIONS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2 * part, 3 * part, 3 * part]},
    }
    tree["vision_config"]["out_hidden_size"] = hidden
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = type(brain.model)._from_config(type(brain.model.config).from_dict(tree), dtype=brain.model.dtype)
    return auto.AutoBrain(model, brain.collate, {"repo": repo, "revision": revision, "fingerprint": fingerprint(model.state_dict())})
