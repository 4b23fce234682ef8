"""Any image-text-to-text model or causal LM of transformers, on the generic route: the prompt into a cache, queries on top of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from metabridge.adapters import skeleton
from metabridge.adapters.cache import CacheLayout, length
from metabridge.adapters.collate import ChatCollate
from metabridge.adapters.families import PATCHED_TOGETHER, config_of, decoder_of, model_class, model_of
from metabridge.adapters.locate import hub_error, locate
from metabridge.adapters.pictures import MAX_PIXELS
from metabridge.adapters.quantize import check_format, quantize_layers
from metabridge.bridge.artifact import fingerprint
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Brain, Inputs, Memory
from metabridge.bridge.thinking import TEMPLATE

TOKEN_KINDS = {"token_type_ids", "mm_token_type_ids"}  # [B, L], 0 = text


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
        self.layout = CacheLayout(config)
        self.parameters_of_text = frozenset(inspect.signature(self.text.forward).parameters)
        self.filler: int = config.pad_token_id or 0  # stands for a query where layers look up embeddings by token id

    @cached_property
    def end_tokens(self) -> Tensor:
        return _end_tokens(self.model, self.collate.tokenizer)

    @property
    def base(self) -> Any:
        """Vision tower, projector and decoder, no lm_head."""
        return self.text if self.model.base_model is self.model else self.model.base_model

    @property
    def text(self) -> Any:
        """The decoder alone; its last_hidden_state is the state after the final norm."""
        return decoder_of(self.model)

    def train(self, mode: bool = True) -> AutoBrain:
        """Always eval: in train() with gradient checkpointing the layers silently drop the cache."""
        return super().train(False)

    @torch.no_grad()
    def read(self, inputs: Inputs, memory: Memory | None = None, depth: int | None = None) -> Memory:
        if memory is not None and memory.depth != depth:
            raise ValueError(f"a Memory of depth {memory.depth} cannot be extended at depth {depth}: other layers would be missing")
        if memory is not None and not self.extends(inputs):
            raise ValueError(
                "this brain cuts a picture differently beside others: read a further turn with a picture together with the earlier ones"
            )
        device, dtype = self.text.device, self.text.dtype
        inputs = {name: x.to(device, dtype if x.is_floating_point() else x.dtype) for name, x in inputs.items()}
        mask = inputs.pop("attention_mask")
        position_ids, position = self._positions(inputs, mask)
        if memory is not None:
            position_ids, position = position_ids + memory.position[:, None], position + memory.position
            # what tells which tokens are of one picture is looked up at places in the whole
            kinds = {name: F.pad(inputs[name], (memory.mask.shape[1], 0)) for name in TOKEN_KINDS & inputs.keys()}
            inputs, mask = inputs | kinds, torch.cat([memory.mask, mask], dim=1)
            self._check_gaps(mask)
        self._check_length(mask.shape[1])
        cache = self.layout.growing(() if memory is None else memory.cache)
        with self._layers(depth):
            state = self.base(**inputs, **self._context(mask, position_ids, cache))
        assert length(cache) in (mask.shape[1], None), "the prompt was not cached"
        last = state.last_hidden_state[:, -1] if depth is None else None
        return Memory(self.layout.contents(cache, depth), mask, position, last, depth)

    def extends(self, inputs: Inputs) -> bool:
        return "pixel_values" not in inputs or self.model.config.model_type not in PATCHED_TOGETHER

    def query(self, memory: Memory, queries: Tensor, taps: Sequence[int]) -> Tensor:
        depth = self.num_layers if -1 in taps else max(taps)
        if memory.depth is not None and memory.depth < depth:
            raise ValueError(f"taps {list(taps)} need {depth} layers, but this Memory was read with depth={memory.depth}")
        count = len(queries)
        if count == 1 and self.layout.recurrent:
            # one token alone takes the route of generation, which overwrites states that its own gradient needs; a second cannot reach it
            return self.query(memory, queries.expand(2, -1), taps)[:, :1]
        batch = len(memory.mask)
        self._check_length(memory.mask.shape[1] + count)
        mask = torch.cat([memory.mask, memory.mask.new_ones(batch, count)], dim=1)
        position_ids = memory.position[:, None] + torch.arange(count, device=mask.device)
        embeds = queries.to(self.text.dtype).expand(batch, -1, -1)
        ids = torch.full((batch, count), self.filler, device=mask.device)
        cache = self.layout.read_only(memory.cache[:depth])
        layers = {tap: self._layer_of(tap) for tap in taps if tap != -1}
        with self._layers(depth), self._outputs(set(layers.values())) as outputs:
            final = self._decode(ids, embeds, mask, position_ids, cache)
        tapped = [final if tap == -1 else F.rms_norm(outputs[layers[tap]], (self.width,)) for tap in taps]
        return torch.cat(tapped, dim=-1)

    @torch.no_grad()
    def say(self, memory: Memory, max_new_tokens: int = 64) -> tuple[list[list[int]], Memory]:
        if memory.last is None:
            raise ValueError(f"a Memory read with depth={memory.depth} has no last layer to reply from; read it again with depth=None")
        mask, position, last = memory.mask, memory.position, memory.last
        self._check_length(mask.shape[1] + max_new_tokens)
        cache, ends = self.layout.growing(memory.cache), self.end_tokens.to(mask.device)
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
            states, embeds = self.layout.states(cache), self.base.get_input_embeddings()(token[:, None])
            state = self._decode(token[:, None], embeds, mask, position[:, None], cache)
            self.layout.put_back(cache, states, ~alive)
            position = position + alive.to(position)
            last = torch.where(alive[:, None], state[:, -1], last)
        rows = torch.stack(said, dim=1).tolist() if said else [[] for _ in range(len(mask))]
        read = self.layout.contents(cache)
        if self.layout.gapless:
            read, mask = self.layout.without_gaps(read, mask)
        return [[token for token in row if token >= 0] for row in rows], Memory(read, mask, position, last)

    def blocks(self) -> list[nn.Module]:
        """The decoder layers; the vision tower does not run in a batch without pictures."""
        return list(self.text.layers)

    def embedding_std(self) -> float:
        embedding = self.base.get_input_embeddings()
        if embedding.weight.is_meta:
            return 1.0
        ids = torch.arange(embedding.num_embeddings, device=embedding.weight.device)[: 2**16]
        with torch.no_grad():
            return float(embedding(ids).float().std())

    def _decode(self, ids: Tensor, embeds: Tensor, mask: Tensor, position_ids: Tensor, cache: Any) -> Tensor:
        """State after the final norm [B, N, D] of `embeds` [B, N, D], which stand for tokens `ids` [B, N]."""
        context = self._context(mask, position_ids, cache)
        if "per_layer_inputs" in self.parameters_of_text and self.text.hidden_size_per_layer_input:
            context["per_layer_inputs"] = self.text.get_per_layer_inputs(ids)
        hidden: Tensor = self.text(inputs_embeds=embeds, **context).last_hidden_state
        return hidden

    def _context(self, mask: Tensor, position_ids: Tensor, cache: Any) -> dict[str, Any]:
        """What goes with the tokens of a pass; a state space model has no positions and its own word for the cache."""
        if "cache_params" in self.parameters_of_text:
            return {"attention_mask": mask, "cache_params": cache, "use_cache": True}
        return {"attention_mask": mask, "position_ids": position_ids, "past_key_values": cache, "use_cache": True}

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
    def _outputs(self, layers: set[int]) -> Iterator[dict[int, Tensor]]:
        """Outputs [B, N, D] of these layers, kept as they pass."""
        outputs: dict[int, Tensor] = {}

        def keep(k: int) -> Any:
            return lambda module, args, output: outputs.update({k: self._stream(output)})

        hooks = [self.text.layers[k - 1].register_forward_hook(keep(k)) for k in layers]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()

    def _layer_of(self, tap: int) -> int:
        """The layer whose output a tap is."""
        return tap

    def _stream(self, output: Any) -> Tensor:
        """A layer's output [B, N, D]; of the several streams of AltUp [S, B, N, D] the one that the layer computes."""
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden[self.text.config.altup_active_idx] if hidden.dim() == 4 else hidden

    def _check_gaps(self, mask: Tensor) -> None:
        if self.layout.gapless and (mask.diff(dim=1) < 0).any():
            raise ValueError(
                "turns of different length in a batch cannot be read onto a Memory by this brain: padding between them would count; "
                "read the rows one at a time"
            )

    def _check_length(self, length: int) -> None:
        if length > self.max_tokens:
            raise UserError(f"prompt: too long; {length} tokens with queries and reply, but this brain reads {self.max_tokens}; shorten it")


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    weights: str = "pretrained",
    quantize: str = "none",
    think_template: str = TEMPLATE,
    max_pixels: int = MAX_PIXELS,
    trust_remote_code: bool = False,
) -> AutoBrain:
    """`repo`: folder, hub id or package:...; `dtype`: float32 | bfloat16 | float16 | float64; `weights`: pretrained | random.

    `quantize`: none | int8 | nf4, how the weights of the decoder layers are kept; `dtype` is what they are multiplied in.

    `max_pixels`: what a picture is scaled down to before the brain's own processor, which may scale it further.
    `trust_remote_code`: run the Python code that a checkpoint brings with it.
    """
    if "{prompt}" not in think_template:
        raise UserError(f"brain.think_template: {think_template!r} has no {{prompt}} in it; say where the prompt stands")
    check_format(quantize)
    path, kind = locate(repo, revision), torch_dtype(dtype, "brain.dtype")
    try:
        config = config_of(repo, path, revision, trust_remote_code)
        model = model_of(model_class(config, repo, trust_remote_code), config, path, revision, kind, weights, trust_remote_code)
        decoder_of(model, repo)
        brain_class, collate_class = _classes(config)
        collate = collate_class(path, revision, think_template, max_pixels, trust_remote_code)
        if not skeleton.active() and not getattr(collate.processor, "chat_template", None):
            raise UserError(f"{repo}: has no chat template, which says where a prompt ends; use an instruction-tuned checkpoint")
    except UserError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise hub_error(repo, revision, error) from error
    except ImportError as error:  # a tower of timm, or what remote code wants
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{repo}: needs a package that is not installed ({reason}); install it") from error
    identity = {"repo": repo, "revision": revision, "fingerprint": fingerprint(model.state_dict())}  # of the weights as they came
    if quantize != "none":
        quantize_layers(decoder_of(model).layers, quantize, repo)
        identity["quantize"] = quantize
    return brain_class(model, collate, identity)


def _classes(config: Any) -> tuple[type[AutoBrain], type[ChatCollate]]:
    if config.model_type == "mllama":
        from metabridge.adapters.mllama import MllamaBrain, MllamaCollate

        return MllamaBrain, MllamaCollate
    return AutoBrain, ChatCollate


def torch_dtype(name: str, where: str) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    if name not in known:
        raise UserError(f"{where}: {name!r} given; it is one of: {', '.join(known)}")
    return known[name]


def _end_tokens(model: Any, tokenizer: Any) -> Tensor:
    """Every token that ends a turn."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = configured if isinstance(configured, list) else [configured]
    return torch.tensor(sorted({i for i in (*ids, tokenizer.eos_token_id) if i is not None}))
