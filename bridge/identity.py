"""Which bridge something was made with: what its record keeps, and whether another is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metabridge.bridge.artifact import content_hash
from metabridge.bridge.model import Bridge

PARTS = ("brain", "hand")


def identity_of(bridge: Bridge) -> dict[str, Any]:
    """The hash of what was trained, and the fingerprints of what was not."""
    return {"content": content_hash(bridge.trained()), "brain": dict(bridge.brain.identity), "hand": dict(bridge.hand.identity)}


def difference(recorded: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """In what a bridge is another than the recorded one, in words; None = it is the same."""
    for part in PARTS:
        before, now = recorded[part]["fingerprint"], own[part]["fingerprint"]
        if before != now:
            return (
                f"another {part}, {recorded[part]['repo']} of fingerprint {before[:12]}, this bridge's is {own[part]['repo']} of {now[:12]}"
            )
        formats = [identity.get("quantize", "none") for identity in (recorded[part], own[part])]
        if formats[0] != formats[1]:
            return f"its {part} quantized as {formats[0]}, this one's is {formats[1]}"
    if recorded["hand"].get("loras") != own["hand"].get("loras"):
        return "other LoRA files of the hand, or with other weights"
    if recorded["content"] != own["content"]:
        return f"another bridge, of content {recorded['content'][:12]}, this one's is {own['content'][:12]}"
    return None
