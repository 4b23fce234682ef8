"""What spawned workers import."""

from __future__ import annotations

from torch.utils.data import Dataset

from metabridge.training.feeds import Streamed


class Wheres(Dataset[str]):
    def __init__(self, feed: Streamed) -> None:
        self.feed = feed

    def __getitem__(self, number: int) -> str:
        return self.feed.raw(number).where
