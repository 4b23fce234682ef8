"""Decoders that differ: states beside or instead of keys and values, windows, chunks, cross-attention, embeddings for each layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers

from brain_families.family import Family, chat_template, processor, text, write
from brain_families.qwen import PATCH, QWEN3_VISION, SIZE, VISION, rope
from metabridge.adapters.families import REFUSED

OF_THREE = ["linear_attention", "full_attention", "linear_attention"]
LINEAR = {
    "layer_types": OF_THREE,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "head_dim": 16,
    "partial_rotary_factor": 0.5,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
WINDOW = {"sliding_window": 8}
GEMMA_TOKENS = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
GEMMA_TEMPLATE = "<bos>" + chat_template("<start_of_image>", "<start_of_turn>", "<end_of_turn>")
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "vision_use_head": False,
}


def settled(model_class: Any) -> Callable[[Any], Any]:
    """With vectors of a size as training leaves them; drawn as they come, some hide a layer and others blow rounding up.

    A_log: heads that forget slowly, as decays are summed over a chunk in float32. q_norm: what divides by the root of head_dim where
    attention does not. Gates of cross-attention start at zero.
    """

    def make(config: Any) -> Any:
        model = model_class(config)
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                torch.nn.init.uniform_(parameter, -4, -1)
            elif config.model_type.startswith("gemma4") and name.endswith("q_norm.weight"):
                torch.nn.init.constant_(parameter, len(parameter) ** -0.5)
            elif name.endswith(("attn_gate", "mlp_gate")):
                torch.nn.init.normal_(parameter)
        return model

    return make


def make_causal(folder: Path, model_class: Any, decoder: dict[str, Any]) -> Path:
    words = tiny.qwen_tokenizer()
    words.chat_template = tiny.CHAT_TEMPLATE
    return write(folder, settled(model_class), model_class.config_class(**text(words, **decoder)), words)


def causal(model_class: str, reason: str, decoder: dict[str, Any] | None = None, narrow: bool = False) -> Family:
    """Text only."""
    return Family(
        lambda folder: make_causal(folder, getattr(transformers, model_class), decoder or {}),
        reason=reason,
        pictures=False,
        narrow=narrow,
    )


def make_qwen3_5(folder: Path, model_class: Any, decoder: dict[str, Any]) -> Path:
    words = tiny.qwen_tokenizer()
    ids = words.convert_tokens_to_ids
    vision = VISION | {key: value for key, value in QWEN3_VISION.items() if key != "deepstack_visual_indexes"}
    config = model_class.config_class(
        text_config=text(words, **decoder),
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    pictures = transformers.Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=2, temporal_patch_size=2, size=SIZE)
    return write(folder, settled(model_class), config, processor(transformers.Qwen3VLProcessor, pictures, words, tiny.CHAT_TEMPLATE))


M_ROPE = rope(partial_rotary_factor=0.5, mrope_interleaved=True)


def make_qwen3_5_dense(folder: Path) -> Path:
    return make_qwen3_5(folder, transformers.Qwen3_5ForConditionalGeneration, LINEAR | M_ROPE)


def make_qwen3_5_moe(folder: Path) -> Path:
    decoder = LINEAR | M_ROPE | EXPERTS | {"shared_expert_intermediate_size": 32}
    return make_qwen3_5(folder, transformers.Qwen3_5MoeForConditionalGeneration, decoder)


def gemma_tokenizer(named: dict[str, str] | None = None) -> transformers.PreTrainedTokenizerFast:
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"} | (named or {})
    ends = {"eos_token": "<eos>", "pad_token": "<pad>", "bos_token": "<bos>"}
    return tiny.tokenizer(list(dict.fromkeys([*GEMMA_TOKENS, *named.values()])), "left", **ends, extra_special_tokens=named)


def make_gemma3(folder: Path) -> Path:
    words = gemma_tokenizer()
    ids = words.convert_tokens_to_ids
    layer_types = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    decoder = {"num_hidden_layers": 4, "layer_types": layer_types, "head_dim": 16, "query_pre_attn_scalar": 16} | WINDOW
    config = transformers.Gemma3Config(
        text_config=text(words, **decoder),
        vision_config=SIGLIP,
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
    )
    pictures = transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    whole = processor(transformers.Gemma3Processor, pictures, words, GEMMA_TEMPLATE, image_seq_length=4)
    return write(folder, transformers.Gemma3ForConditionalGeneration, config, whole)


def make_gemma4(folder: Path) -> Path:
    """As the small ones: embeddings for each layer, the last layers with the keys and values of earlier ones."""
    sounds = {"audio_token": "<audio_soft_token>", "boa_token": "<start_of_audio>", "eoa_token": "<end_of_audio>"}
    words = gemma_tokenizer(sounds)
    ids = words.convert_tokens_to_ids
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.Gemma4Config(
        text_config=text(words, **GATED | PER_LAYER),
        vision_config=vision | {"head_dim": 8, "patch_size": 4, "position_embedding_size": 256},
        audio_config=None,
        boi_token_id=ids("<start_of_image>"),
        eoi_token_id=ids("<end_of_image>"),
        image_token_id=ids("<image_soft_token>"),
        audio_token_id=ids("<audio_soft_token>"),
        video_token_id=len(words),
    )
    pictures = transformers.Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70)
    hearing = transformers.Gemma4AudioFeatureExtractor(feature_size=8)
    template = GEMMA_TEMPLATE.replace("<start_of_image>", "<image_soft_token>")
    whole = processor(transformers.Gemma4Processor, pictures, words, template, feature_extractor=hearing)
    return write(folder, settled(transformers.Gemma4ForConditionalGeneration), config, whole)


MLLAMA_TOKENS = ["<|pad|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|image|>", "<|python_tag|>"]


def make_mllama(folder: Path) -> Path:
    ends = {"eos_token": "<|eot_id|>", "pad_token": "<|pad|>", "bos_token": "<|begin_of_text|>"}
    words = tiny.tokenizer(MLLAMA_TOKENS, "left", **ends)
    config = transformers.MllamaConfig(
        text_config=text(words, num_hidden_layers=4, cross_attention_layers=[1, 3]),
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 32,
            "intermediate_layers_indices": [0],
            "image_size": 16,
            "patch_size": 8,
            "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
    )
    pictures = transformers.MllamaImageProcessorPil(size={"height": 16, "width": 16}, max_image_tiles=2)
    template = "<|begin_of_text|>" + chat_template("<|image|>", "<|start_header_id|>", "<|eot_id|>")
    whole = processor(transformers.MllamaProcessor, pictures, words, template)
    return write(folder, settled(transformers.MllamaForConditionalGeneration), config, whole)


GATED = {"head_dim": 16, "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2} | WINDOW
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 400, "num_kv_shared_layers": 2}
MAMBA = {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8, "expand": 2}

STATES = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 8}
GRANITE = {"mamba_expand": 2, "layer_types": OF_THREE, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 32}
NEMOTRON = {"mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 8, "chunk_size": 8, "head_dim": 8}
NEMOTRON |= {"num_hidden_layers": 4, "layers_block_type": [*OF_THREE, "mlp"]}
LLAMA4 = {"attention_chunk_size": 8, "num_local_experts": 4, "head_dim": 8, "num_hidden_layers": 4, "intermediate_size_mlp": 64}


def make_llama4(folder: Path) -> Path:
    words = tiny.qwen_tokenizer()
    words.chat_template = tiny.CHAT_TEMPLATE
    vision = {
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    vision |= {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
    config = transformers.Llama4Config(text_config=text(words, **LLAMA4), vision_config=vision)
    return write(folder, transformers.Llama4ForConditionalGeneration, config, words)


def refused(config: str, reason: str) -> Family:
    """Its config is enough."""

    def make(folder: Path) -> Path:
        getattr(transformers, config)().save_pretrained(folder)
        return folder

    return Family(make, status="refused", reason=reason)


FAMILIES = {
    "qwen3_5": Family(make_qwen3_5_dense, reason="linear attention beside attention, M-RoPE", narrow=True),
    "qwen3_5_moe": Family(make_qwen3_5_moe, reason="linear attention beside attention, mixture of experts, M-RoPE", narrow=True),
    "mamba2": causal("Mamba2ForCausalLM", "state space, no attention", MAMBA, narrow=True),
    "bamba": causal(
        "BambaForCausalLM", "state space beside attention", STATES | {"mamba_expand": 2, "attn_layer_indices": [1]}, narrow=True
    ),
    "falcon_h1": causal("FalconH1ForCausalLM", "state space and attention in each layer", STATES | {"mamba_d_ssm": 64}, narrow=True),
    "granitemoehybrid": causal(
        "GraniteMoeHybridForCausalLM", "state space beside attention, mixture of experts", STATES | GRANITE, narrow=True
    ),
    "nemotron_h": causal("NemotronHForCausalLM", "state space beside attention, layers with neither", NEMOTRON, narrow=True),
    "lfm2": causal("Lfm2ForCausalLM", "convolutions beside attention", {"layer_types": ["conv", "full_attention", "conv"]}),
    "mllama": Family(make_mllama, reason="cross-attention to pictures; a further turn is read anew with those before it", extends=False),
    "llama4": Family(make_llama4, reason="reads text only: its picture processor needs torchvision", pictures=False, narrow=True),
    "llama4_text": causal("Llama4ForCausalLM", "chunked attention, layers without RoPE, mixture of experts", LLAMA4, narrow=True),
    "gemma3": Family(make_gemma3, reason="a picture's tokens see each other, sliding windows"),
    "gemma3_text": causal("Gemma3ForCausalLM", "sliding windows", GATED),
    "gemma3n_text": causal(
        "Gemma3nForCausalLM",
        "embeddings for each layer, AltUp, shared keys and values",
        GATED | PER_LAYER | {"laurel_rank": 4, "altup_num_inputs": 2},
        narrow=True,
    ),
    "gemma4": Family(
        make_gemma4, reason="embeddings for each layer, in which a query is as a picture's token; shared keys and values", narrow=True
    ),
    "gemma4_text": causal("Gemma4ForCausalLM", "embeddings for each layer, shared keys and values", GATED | PER_LAYER, narrow=True),
    "llama": causal("LlamaForCausalLM", "grouped queries"),
    "qwen3": causal("Qwen3ForCausalLM", "norms of queries and keys", {"head_dim": 8}),
    "qwen3_moe": causal("Qwen3MoeForCausalLM", "mixture of experts", {"head_dim": 8} | EXPERTS),
    "mistral": causal("MistralForCausalLM", "sliding windows", WINDOW),
    "qwen3_next": refused("Qwen3NextConfig", REFUSED["qwen3_next"]),
    "olmo_hybrid": refused("OlmoHybridConfig", REFUSED["olmo_hybrid"]),
    "paligemma": refused("PaliGemmaConfig", REFUSED["paligemma"]),
    "diffusion_gemma": refused("DiffusionGemmaConfig", REFUSED["diffusion_gemma"]),
    "jamba": refused("JambaConfig", REFUSED["jamba"]),
    "mamba": refused("MambaConfig", REFUSED["mamba"]),
    "falcon_mamba": refused("FalconMambaConfig", REFUSED["falcon_mamba"]),
}
