"""Weights of a scoring model, whole or not at all: a part left untrained would go on scoring, wrongly and without a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metabridge.bridge.errors import UserError


def load_model(kind: Any, role: str, repo: str, device: str, **options: Any) -> tuple[Any, dict[str, str]]:
    """A frozen float32 model of the class `kind` of transformers, and what it is: repo and fingerprint."""
    import torch

    from metabridge.bridge.artifact import fingerprint

    with loading(role, repo):
        model, found = kind.from_pretrained(repo, dtype=torch.float32, output_loading_info=True, **options)
    # buffers are computed anew; weights of other shapes than the model's have raised already
    if missing := sorted(set(found["missing_keys"]) & {name for name, _ in model.named_parameters()}):
        raise UserError(
            f"{role} {repo}: the checkpoint lacks {len(missing)} of the model's weights, as {missing[0]}; "
            f"it is damaged or another kind of model: give a whole {kind.__name__} with --model {role}=FOLDER"
        )
    return model.to(device).eval().requires_grad_(False), {"repo": repo, "fingerprint": fingerprint(model.state_dict())}


@contextmanager
def loading(role: str, repo: str) -> Iterator[None]:
    """What transformers says of a repo or folder that it cannot load, in one line with what to do."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(f"{role} {repo}: cannot be loaded ({said}); download it, or give its folder with --model {role}=FOLDER") from error
