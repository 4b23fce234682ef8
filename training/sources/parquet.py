"""Parquet files; pictures are bytes in them, or files beside them.

They are read row group by row group, and of each only the columns that are asked for.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.training.columns import Lazy
from metabridge.training.feeds import Stream, Table
from metabridge.training.network import said
from metabridge.training.order import TOGETHER
from metabridge.training.paths import addresses, find, is_remote, picture_root
from metabridge.training.schema import BadRow, Raw

Group = tuple[Path, int]  # a file and the number of one of its row groups
ENDINGS = (".parquet",)
COLUMNS = 6  # that are kept of each row group, most often: prompt, target and pictures, a thought, a history


class RowGroups:
    """Rows of Parquet files; a row group is a block."""

    def __init__(self, groups: list[Group], blocks: list[int], columns: tuple[str, ...], root: Path | None) -> None:
        self.groups, self.columns, self.root = groups, columns, root
        self.blocks: Sequence[int] = blocks
        self.ends = list(accumulate(blocks))
        self.firsts: dict[Path, int] = {}  # rows before each file
        for (path, _), end, rows in zip(groups, self.ends, blocks, strict=True):
            self.firsts.setdefault(path, end - rows)

    def raw(self, index: int) -> Raw:
        number = bisect.bisect_right(self.ends, index)
        path, group = self.groups[number]
        row = index - (self.ends[number] - self.blocks[number])
        columns = Lazy(self.columns, lambda name: _column(path, group, name)[row].as_py())
        return Raw(columns, f"{path.name}:{index - self.firsts[path] + 1}", self.root or path.parent)


@lru_cache(maxsize=(TOGETHER + 1) * COLUMNS)
def _column(path: Path, group: int, name: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, metadata=_footer(path)) as file:
            table = file.read_row_group(group, columns=[name], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise BadRow(f"row group {group + 1} of {path.name} cannot be read ({said(error)})") from error
    return table.column(name)


@lru_cache(maxsize=2 * TOGETHER)
def _footer(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_metadata(path)


def load(path: str, files: str | None = None, root: str | None = None) -> Table | Stream:
    """`files`: a pattern inside of the folder, or of the address, `path`; `root`: where relative paths of pictures start, in `path` if
    `files` is given; there, or beside the file, unless given."""
    what = "data parquet"
    if is_remote(path):
        from metabridge.training.sources.huggingface import Streaming, loaded

        if root is not None:
            raise UserError(f"{what}.root: has no effect with {path}; download the set, and give its folder")
        data_files = {"train": addresses(what, path, files, ENDINGS)}
        return Streaming(loaded(what, "parquet", split="train", streaming=True, data_files=data_files), what, Path(path).name, None)
    found = find(what, path, files, ENDINGS)
    return _row_groups(what, found, picture_root(path, files, root))


def _row_groups(what: str, found: list[Path], root: Path | None) -> RowGroups:
    import pyarrow as pa

    groups: list[Group] = []
    blocks: list[int] = []
    columns: tuple[str, ...] = ()
    for path in found:
        try:
            footer = _footer(path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{what}.path: {path}: no Parquet file, or cut short ({said(error)}); download it again or leave it out"
            ) from error
        names = tuple(footer.schema.to_arrow_schema().names)
        if columns and set(names) != set(columns):
            raise UserError(
                f"{what}.path: {path} has the columns {', '.join(names)}, {found[0].name} has {', '.join(columns)}; "
                "give files of one kind, as a source each"
            )
        columns = columns or names
        groups += [(path, k) for k in range(footer.num_row_groups)]
        blocks += [footer.row_group(k).num_rows for k in range(footer.num_row_groups)]
    return RowGroups(groups, blocks, columns, root)
