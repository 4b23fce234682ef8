"""A dataset by its id on the Hugging Face hub, or in a folder; loaded, or streamed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.training.columns import Lazy
from metabridge.training.feeds import Stream, Table
from metabridge.training.network import Patience, of_network, said
from metabridge.training.order import permute
from metabridge.training.schema import BadRow, Raw

log = logging.getLogger(__name__)


class Rows:
    """A loaded dataset. Read as Arrow, so that no picture is decoded on the way."""

    def __init__(self, dataset: Any, name: str, root: Path | None) -> None:
        self.dataset, self.name, self.root = dataset.with_format("arrow"), name, root
        self.blocks: Sequence[int] = [len(dataset)]

    def raw(self, index: int) -> Raw:
        row = self.dataset[index]
        return Raw(Lazy(row.column_names, lambda name: row.column(name)[0].as_py()), f"{self.name}:{index + 1}", self.root)


class Streaming:
    """A dataset read on and on, file by file, the files of each epoch in an order of its own.

    A row's name is that of its file and its place in it: the same in every epoch. The state after a row is the file's place in the
    order, the rows read of it, and the state of datasets.
    """

    def __init__(self, dataset: Any, what: str, name: str, root: Path | None) -> None:
        self.dataset, self.what, self.name, self.root = dataset.decode(False), what, name, root

    def rows(self, epoch: int, state: Any = None) -> Iterator[tuple[Raw | BadRow, Any]]:
        state = state or {"file": 0, "row": 0, "inner": None}
        files = self.dataset.num_shards
        for place in range(state["file"], files):
            yield from self._file(permute(place, files, epoch, 6), place, state if place == state["file"] else None)

    def _file(self, file: int, place: int, state: Mapping[str, Any] | None) -> Iterator[tuple[Raw | BadRow, Any]]:
        row, inner = (state["row"], state["inner"]) if state else (0, None)
        patience = Patience(self.what)
        while True:
            part = self.dataset.shard(num_shards=self.dataset.num_shards, index=file)
            if inner is not None:
                part.load_state_dict(inner)
            try:
                for columns in part.iter(batch_size=1):  # without it, a worker would read its own share alone
                    row, inner = row + 1, part.state_dict()
                    patience.worked()
                    values = {name: column[0] for name, column in columns.items()}
                    yield Raw(values, f"{self.name}:{file + 1}:{row}", self.root), {"file": place, "row": row, "inner": inner}
                return
            except Exception as error:  # of the network, or whatever a damaged file makes its reader raise
                if of_network(error):
                    patience.failed(f"{self.name}, file {file + 1}, row {row + 1}", error)
                    continue
                log.warning("%s: %s: file %d cannot be read on after row %d (%s)", self.what, self.name, file + 1, row, said(error))
                yield BadRow(f"its file cannot be read on ({said(error)})"), {"file": place + 1, "row": 0, "inner": None}
                return


def load(
    path: str,
    name: str | None = None,
    split: str = "train",
    revision: str | None = None,
    streaming: bool = False,
    data_files: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table | Stream:
    """`path`: an id, a folder of files, or one that save_to_disk wrote; `name`: the configuration, where there are several."""
    what = "data huggingface"
    if not path:
        raise UserError(f"{what}.path: empty; give the id of a dataset, as pixparse/cc12m-wds, or a folder")
    folder = Path(path).expanduser()
    if any((folder / saved).is_file() for saved in ("state.json", "dataset_dict.json")):
        if streaming or data_files or name:
            raise UserError(f"{what}: {path} was written by save_to_disk: streaming, name and data_files have no effect; leave them out")
        return Rows(_saved(what, folder, split), folder.name, folder)
    if not folder.exists() and path.startswith((".", "~", "/")):
        raise UserError(f"{what}.path: {path}: no such folder; give a folder, or the id of a dataset, as pixparse/cc12m-wds")
    where, root = (str(folder), folder) if folder.is_dir() else (path, None)
    dataset = loaded(what, where, name=name, split=split, revision=revision, streaming=streaming, data_files=data_files)
    return Streaming(dataset, what, Path(path).name, root) if streaming else Rows(dataset, Path(path).name, root)


def loaded(what: str, path: str, **options: Any) -> Any:
    """What datasets makes of it. `path`: an id, a folder, or the kind of the files that `data_files` names."""
    import datasets

    try:
        return datasets.load_dataset(path, **options)
    except Exception as error:  # of a hub that is away, of files of many kinds: each raises its own
        named, offline = options.get("data_files") or path, "offline" in str(error).lower()
        advice = "HF_HUB_OFFLINE is set: give a folder, or unset it" if offline else "mend its path, name, split or data_files"
        raise UserError(f"{what}: {_short(named)}: cannot be opened ({said(error)}); {advice}") from error


def _saved(what: str, folder: Path, split: str) -> Any:
    import datasets

    try:
        dataset = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise UserError(f"{what}.path: {folder}: cannot be opened ({said(error)}); save it again") from error
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise UserError(f"{what}.split: {split}: not in {folder}; it may be one of: {', '.join(dataset)}")
        return dataset[split]
    return dataset


def _short(named: object) -> str:
    text = str(named["train"][0]) if isinstance(named, Mapping) and named.get("train") else str(named)
    return text if len(text) < 200 else text[:197] + "..."
