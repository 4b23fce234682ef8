"""Any image-text-to-text model or causal LM of transformers, on the generic route: the prompt into a cache, queries on top of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from metabridge.adapters.cache import contents, growing, read_only
from metabridge.adapters.collate import ChatCollate
from metabridge.adapters.locate import hub_error, locate
from metabridge.bridge.artifact import fingerprint
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Brain, Inputs, Memory
from metabridge.bridge.thinking import TEMPLATE

log = logging.getLogger(__name__)


class AutoBrain(Brain):
    def __init__(self, model: Any, collate: ChatCollate, identity: dict[str, str]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.collate: ChatCollate = collate
        self.identity = identity
        config = model.config.get_text_config(decoder=True)
        self.width: int = config.hidden_size
        self.num_layers: int = config.num_hidden_layers
        self.max_tokens: int = getattr(config, "max_position_embeddings", 2**31)
        self.end_tokens = _end_tokens(model, collate.tokenizer)

    @property
    def base(self) -> Any:
        """Vision tower, projector and decoder, no lm_head."""
        return self.model.base_model

    @property
    def text(self) -> Any:
        """The decoder alone; its last_hidden_state is the state after the final norm."""
        return self.model.get_decoder()

    def train(self, mode: bool = True) -> AutoBrain:
        """Always eval: in train() with gradient checkpointing the layers silently drop the cache."""
        return super().train(False)

    @torch.no_grad()
    def read(self, inputs: Inputs, memory: Memory | None = None, depth: int | None = None) -> Memory:
        if memory is not None and memory.depth != depth:
            raise ValueError(f"a Memory of depth {memory.depth} cannot be extended at depth {depth}: other layers would be missing")
        device, dtype = self.text.device, self.text.dtype
        inputs = {name: x.to(device, dtype if x.is_floating_point() else x.dtype) for name, x in inputs.items()}
        mask = inputs.pop("attention_mask")
        position_ids, position = self._positions(inputs, mask)
        if memory is not None:
            position_ids, position = position_ids + memory.position[:, None], position + memory.position
            mask = torch.cat([memory.mask, mask], dim=1)
        self._check_length(mask.shape[1])
        cache = growing(None if memory is None else memory.cache)
        with self._layers(depth):
            state = self.base(**inputs, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True)
        assert cache.get_seq_length() == mask.shape[1], "the prompt was not cached"
        last = state.last_hidden_state[:, -1] if depth is None else None
        return Memory(contents(cache), mask, position, last, depth)

    def query(self, memory: Memory, queries: Tensor, taps: Sequence[int]) -> Tensor:
        depth = self.num_layers if -1 in taps else max(taps)
        if memory.depth is not None and memory.depth < depth:
            raise ValueError(f"taps {list(taps)} need {depth} layers, but this Memory was read with depth={memory.depth}")
        batch, count = len(memory.mask), len(queries)
        self._check_length(memory.mask.shape[1] + count)
        mask = torch.cat([memory.mask, memory.mask.new_ones(batch, count)], dim=1)
        position_ids = memory.position[:, None] + torch.arange(count, device=mask.device)
        with self._layers(depth), self._outputs(taps) as outputs:
            state = self.text(
                inputs_embeds=queries.to(self.text.dtype).expand(batch, -1, -1),
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=read_only(memory.cache[:depth]),
                use_cache=True,
            )
        tapped = [state.last_hidden_state if tap == -1 else F.rms_norm(outputs[tap], (self.width,)) for tap in taps]
        return torch.cat(tapped, dim=-1)

    @torch.no_grad()
    def reply(self, memory: Memory, max_new_tokens: int = 64) -> tuple[list[str], Memory]:
        if memory.last is None:
            raise ValueError(f"a Memory read with depth={memory.depth} has no last layer to reply from; read it again with depth=None")
        mask, position, last = memory.mask, memory.position, memory.last
        self._check_length(mask.shape[1] + max_new_tokens)
        cache, ends = growing(memory.cache), self.end_tokens.to(mask.device)
        alive = torch.ones_like(position, dtype=torch.bool)
        said: list[Tensor] = []
        for _ in range(max_new_tokens):
            token = self.model.get_output_embeddings()(last).argmax(dim=-1)
            alive = alive & ~torch.isin(token, ends)
            if not alive.any():
                break
            said.append(torch.where(alive, token, -1))
            # a row that has ended reads on behind a mask: its memory stays as it was
            mask = torch.cat([mask, alive[:, None].to(mask)], dim=1)
            embeds = self.base.get_input_embeddings()(token[:, None])
            state = self.text(
                inputs_embeds=embeds, attention_mask=mask, position_ids=position[:, None], past_key_values=cache, use_cache=True
            )
            position = position + alive.to(position)
            last = torch.where(alive[:, None], state.last_hidden_state[:, -1], last)
        else:
            log.warning("%d of %d replies were cut at max_new_tokens=%d", int(alive.sum()), len(alive), max_new_tokens)
        rows = torch.stack(said, dim=1).tolist() if said else [[] for _ in range(len(mask))]
        texts = [self.collate.tokenizer.decode([t for t in row if t >= 0], skip_special_tokens=True).strip() for row in rows]
        return texts, Memory(contents(cache), mask, position, last)

    def embedding_std(self) -> float:
        embedding = self.base.get_input_embeddings()
        ids = torch.arange(embedding.num_embeddings, device=embedding.weight.device)[: 2**16]
        with torch.no_grad():
            return float(embedding(ids).float().std())

    def _positions(self, inputs: Inputs, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Position ids, [B, L] or under M-RoPE with pictures [3, B, L], and the first free position of each row [B]."""
        if "image_grid_thw" in inputs and hasattr(self.base, "get_rope_index"):
            ids, _ = self.base.get_rope_index(
                inputs["input_ids"],
                mm_token_type_ids=inputs["mm_token_type_ids"],
                image_grid_thw=inputs["image_grid_thw"],
                attention_mask=mask,
            )
            return ids, ids.masked_fill(mask == 0, -1).amax(dim=(0, 2)) + 1
        return (mask.cumsum(dim=1) - 1).clamp(min=0), mask.sum(dim=1)

    @contextmanager
    def _layers(self, depth: int | None) -> Iterator[None]:
        """Run only the first `depth` decoder layers."""
        text, layers = self.text, self.text.layers
        text.layers = layers[:depth]
        try:
            yield
        finally:
            text.layers = layers

    @contextmanager
    def _outputs(self, taps: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Outputs [B, N, D] of the tapped layers, kept as they pass."""
        outputs: dict[int, Tensor] = {}

        def keep(tap: int) -> Any:
            return lambda module, args, output: outputs.update({tap: output[0] if isinstance(output, tuple) else output})

        hooks = [self.text.layers[tap - 1].register_forward_hook(keep(tap)) for tap in set(taps) - {-1}]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()

    def _check_length(self, length: int) -> None:
        if length > self.max_tokens:
            raise UserError(f"prompt: too long; {length} tokens with queries and reply, but this brain reads {self.max_tokens}; shorten it")


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    weights: str = "pretrained",
    think_template: str = TEMPLATE,
) -> AutoBrain:
    """`repo`: folder, hub id or package:...; `dtype`: float32 | bfloat16 | float16 | float64; `weights`: pretrained | random."""
    if "{prompt}" not in think_template:
        raise UserError(f"brain.think_template: {think_template!r} has no {{prompt}} in it; say where the prompt stands")
    path, kind = locate(repo, revision), torch_dtype(dtype, "brain.dtype")
    try:
        config = transformers.AutoConfig.from_pretrained(path, revision=revision)
        model_class = _model_class(config, repo)
        model = _weights(model_class, config, path, revision, kind, weights)
        collate = ChatCollate(path, revision, think_template)
        if not getattr(collate.processor, "chat_template", None):
            raise UserError(f"{repo}: has no chat template, which says where a prompt ends; use an instruction-tuned checkpoint")
    except UserError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise hub_error(repo, revision, error) from error
    identity = {"repo": repo, "revision": revision, "fingerprint": fingerprint(model.state_dict())}
    return AutoBrain(model, collate, identity)


def torch_dtype(name: str, where: str) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if name not in known:
        raise UserError(f"{where}: {name!r} given; it is one of: {', '.join(known)}")
    return known[name]


def _weights(model_class: Any, config: Any, path: str, revision: str, dtype: torch.dtype, weights: str) -> Any:
    if weights == "pretrained":
        return model_class.from_pretrained(path, revision=revision, dtype=dtype)
    if weights != "random":
        raise UserError(f"brain.weights: {weights!r} given; it is one of: pretrained, random")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same untrained brain every time
        return model_class.from_config(config, dtype=dtype)


def _model_class(config: Any, repo: str) -> Any:
    text = config.get_text_config(decoder=True)
    reason = None
    if config.model_type == "paligemma":
        reason = "it is a prefix-LM: queries after the prompt would not be what it was trained on"
    elif "linear_attention" in (getattr(text, "layer_types", None) or ()):
        reason = "its linear-attention layers keep a state instead of keys and values"
    elif getattr(text, "hidden_size_per_layer_input", 0):
        reason = "its layers look up embeddings by token id, which queries do not have"
    elif type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    elif type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    raise UserError(f"{repo}: a {config.model_type} cannot be a brain here: {reason or 'it is neither image-text-to-text nor a causal LM'}")


def _end_tokens(model: Any, tokenizer: Any) -> Tensor:
    """Every token that ends a turn."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = configured if isinstance(configured, list) else [configured]
    return torch.tensor(sorted({i for i in (*ids, tokenizer.eos_token_id) if i is not None}))
