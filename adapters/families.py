"""Which models of transformers can be brains, which of its classes loads them, and why the others cannot."""

from __future__ import annotations

import logging
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from metabridge.adapters import skeleton
from metabridge.adapters.cache import CacheLayout
from metabridge.adapters.locate import refuse_missing
from metabridge.bridge.errors import UserError

log = logging.getLogger(__name__)

FORGETS = "its recurrence starts from nothing whenever it reads several tokens at once"
ROUNDS = "in float32 its recurrence rounds off by more than 1e-5 between one pass and two; in float64 the two agree"
REFUSED = {
    "qwen3_next": ROUNDS,
    "olmo_hybrid": ROUNDS,
    "jamba": FORGETS,
    "mamba": FORGETS,
    "falcon_mamba": FORGETS,
    "paligemma": "it is a prefix-LM: queries after the prompt would not be what it was trained on",
    "diffusion_gemma": "it writes by denoising a canvas of tokens, not one after the other; reading queries as such a canvas is not built",
}
# Families that cut a picture differently when others stand beside it: a turn with one, read on its own, is not what it is in the whole.
PATCHED_TOGETHER = frozenset({"llava_onevision"})
# Decoders whose recurrences are shown to go on from a state with several tokens at once, exactly; not all do (FORGETS).
RECURRENT = frozenset(
    {
        "bamba",
        "falcon_h1",
        "granitemoehybrid",
        "lfm2",
        "mamba2",
        "nemotron_h",
        "qwen3_5_moe_text",
        "qwen3_5_text",
    }
)


def config_of(repo: str, path: str, revision: str, trust_remote_code: bool) -> Any:
    """The checkpoint's config; UserError where it can be had only by running code that comes with it, and that was not asked for."""
    tree, _ = transformers.PreTrainedConfig.get_config_dict(path, revision=revision)
    kind, brings_code = tree.get("model_type"), "auto_map" in tree
    if brings_code and kind not in CONFIG_MAPPING and not trust_remote_code:
        raise UserError(f"{repo}: a {kind} comes with code of its own; read it, then set brain.trust_remote_code=true to run it")
    if trust_remote_code and not brings_code:
        log.warning("brain.trust_remote_code has no effect: %s comes without code", repo)
    return transformers.AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)


def model_class(config: Any, repo: str, trust_remote_code: bool = False) -> Any:
    """The Auto class that loads it."""
    if reason := _obstacle(config):
        raise UserError(f"{repo}: a {config.model_type} cannot be a brain here: {reason}")
    own = getattr(config, "auto_map", {}) if trust_remote_code else {}
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or "AutoModelForImageTextToText" in own:
        return transformers.AutoModelForImageTextToText
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in own:
        return transformers.AutoModelForCausalLM
    raise UserError(f"{repo}: a {config.model_type} cannot be a brain here: it is neither image-text-to-text nor a causal LM")


def model_of(auto_class: Any, config: Any, path: str, revision: str, dtype: torch.dtype, weights: str, trust_remote_code: bool) -> Any:
    """The model, with the checkpoint's weights, with random ones, or on the meta device."""
    if weights not in ("pretrained", "random"):
        raise UserError(f"brain.weights: {weights!r} given; it is one of: pretrained, random")
    if skeleton.active():
        return skeleton.model_of_transformers(auto_class, config, dtype, trust_remote_code)
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if dtype == torch.float64:
        options["experts_implementation"] = "eager"  # the grouped products of a mixture of experts know no float64
    if weights == "pretrained":
        model, found = auto_class.from_pretrained(path, revision=revision, output_loading_info=True, **options)
        refuse_missing(found["missing_keys"])
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same untrained brain every time
        return auto_class.from_config(config, **options)


def decoder_of(model: Any, repo: str = "this model") -> Any:
    """The text decoder without its lm_head: what has the list of layers."""
    decoder = model.get_decoder()
    for found in (decoder, getattr(decoder, "model", None)):  # Llama4's has its lm_head on
        if hasattr(found, "layers"):
            return found
    raise UserError(f"{repo}: a {model.config.model_type} cannot be a brain here: its decoder has no list of layers to tap")


def _obstacle(config: Any) -> str | None:
    if config.model_type in REFUSED:
        return REFUSED[config.model_type]
    text = config.get_text_config(decoder=True)
    try:
        layout = CacheLayout(text)
    except (AttributeError, KeyError, ValueError) as error:
        return f"what its layers keep of a prompt is not known here ({error})"
    if layout.recurrent and text.model_type not in RECURRENT:
        return f"its layers keep states, and only of {', '.join(sorted(RECURRENT))} is it shown that queries can go on from them"
    return None
