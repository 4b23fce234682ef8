"""`metabridge data`: what a user names as data, and the commands on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.reading import override, section
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Source

app = typer.Typer(
    help="Look at rows before they are trained on, and rewrite them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
FILES = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".tar": "webdataset"}  # ending -> kind of source
FOLDERS = {"*.tar": "webdataset", "*.parquet": "parquet", "dataset_info.json": "huggingface", "dataset_dict.json": "huggingface"}

What = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A recipe (all of its sources), a preset or a kind of source (metabridge ls data), or a path whose kind is guessed: "
        "a folder of pictures, .jsonl, .parquet, .tar.",
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Options of the source, as path=my/rows.jsonl map.prompt=caption; of a recipe its own."),
]


@app.command()
def check(
    what: What,
    options: Options = None,
    rows: Annotated[int, typer.Option("--rows", min=0, metavar="N", help="Rows to look at, a source; 0 = all.")] = 10_000,
    size: Annotated[
        int | None,
        typer.Option("--size", min=32, metavar="S", help="Pictures are to be trained at S x S or as large; the recipe's, or 512."),
    ] = None,
    max_aspect: Annotated[
        float | None, typer.Option("--max-aspect", min=1, max=8, metavar="A", help="Buckets from 1:A to A:1; the recipe's, or 2.")
    ] = None,
    decode: Annotated[bool, typer.Option("--decode/--headers", help="Decode every picture, or read its size alone.")] = True,
    sheet: Annotated[Path | None, typer.Option("--sheet", metavar="FILE.png", help="Write a sheet of samples there.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers there.")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            metavar="FILE",
            help="Prompts of a benchmark (.txt, .jsonl, .json, .csv, or a folder of them); may be repeated. "
            "Those in $METABRIDGE_BENCH_DATA are taken too.",
        ),
    ] = None,
    max_bad: Annotated[
        float | None, typer.Option("--max-bad", min=0, max=1, metavar="SHARE", help="Of rows that cannot be used; the recipe's, or 0.05.")
    ] = None,
    max_contaminated: Annotated[
        float, typer.Option("--max-contaminated", min=0, max=1, metavar="SHARE", help="Of rows whose prompt stands in a benchmark.")
    ] = 1.0,
) -> None:
    """Say what a source holds: columns, sizes, captions, bad rows, doubled prompts, prompts of benchmarks.

    Ends with 0 where the rows can be trained on; with 1 where none can be used, or more than --max-bad cannot, or more than
    --max-contaminated stand in a benchmark.
    """
    from metabridge.scripts.data_check import Asked, check_command

    check_command(what, options or [], Asked(rows, size, max_aspect, decode, sheet, json_file, against or [], max_bad, max_contaminated))


@app.command()
def convert(
    what: What,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the shards go.")],
    options: Options = None,
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="N|BYTES", help="Rows, or about so many bytes: 1000, 500MB, 1GB.")
    ] = "1GB",
    size: Annotated[
        int, typer.Option("--size", min=0, metavar="S", help="Shrink pictures to S pixels on the shorter side; 0 = as they are.")
    ] = 0,
    picture: Annotated[
        str, typer.Option("--format", metavar="keep|jpg|png|webp", help="keep = the stored bytes, where nothing is shrunk.")
    ] = "keep",
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="Of jpg and webp that are written anew.")] = 92,
    rows: Annotated[int, typer.Option("--rows", min=0, metavar="N", help="The first N rows alone; 0 = all.")] = 0,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes on this machine.")] = 1,
    max_bad: Annotated[
        float, typer.Option("--max-bad", min=0, max=1, metavar="SHARE", help="Of rows that cannot be used, beyond which it stops.")
    ] = 0.05,
) -> None:
    """Write a source's rows as webdataset shards. To go on after a stop, run the same command again."""
    from metabridge.scripts.data_convert import Asked, convert_command

    convert_command(what, options or [], out, Asked(shard_size, size, picture, quality, rows, processes, max_bad))


@app.command()
def cache(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or a shipped name (metabridge ls recipes).")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As train.size=512.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="train.cache of the recipe, or cache.")] = None,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Processes on this machine; each takes a GPU where there are some.")
    ] = 1,
) -> None:
    """Work out once what training needs of every row: latents, and native conditions where it distils. To go on, run it again."""
    from metabridge.scripts.data_cache import cache_command

    cache_command(recipe, overrides or [], out, processes)


@dataclass(frozen=True)
class Named:
    """What a SOURCE on the command line stands for."""

    said: str  # in words: what was taken
    sources: tuple[Source, ...]
    recipe: Recipe | None = None


def named(what: str, options: Sequence[str]) -> Named:
    """A recipe, else a preset or a kind of source, else a path, else a module of the user's."""
    from metabridge.training import presets, recipes, sources

    path = Path(what)
    if what in recipes.names() or path.suffix in (".yaml", ".yml"):
        recipe = Recipe.load(recipes.find(what), options)
        data = [source for run in recipe.runs() for source in run.data]  # of all stages, those that they share once
        return Named(f"recipe {recipes.find(what)}", tuple(source for k, source in enumerate(data) if source not in data[:k]), recipe)
    if what in presets.names():
        return Named(f"preset {what}: {presets.read(what)['title']}", (source_of(what, options),))
    if what in sources.names():
        return Named(f"source {what}", (source_of(what, options),))
    if kind := guess(what):
        return Named(f"{what}, taken as a source of kind {kind}", (source_of(kind, options, what),))
    if path.suffix and path.suffix not in FILES and all(part.isidentifier() for part in what.split(".")):
        return Named(f"source {what}, a module", (source_of(what, options),))
    known = {*recipes.names(), *presets.names(), *sources.names()}
    raise UserError(unknown(what, known, "path, recipe, preset or kind of source"))


def guess(what: str) -> str | None:
    """The kind of source at a path, from names alone; None where nothing is there."""
    path = Path(what).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        held = next((kind for pattern, kind in FOLDERS.items() if any(path.glob(pattern))), None)
        if held is None and not any(file.suffix.lower() in PICTURES for file in path.rglob("*")):
            raise UserError(f"{what}: no pictures, .parquet or .tar in it; give a folder that has some, or a file of rows")
        return held or "folder"
    if suffix in FILES and (path.is_file() or any(sign in what for sign in "*?{")):
        return FILES[suffix]
    if path.is_file():
        raise UserError(f"{what}: no kind of source reads {suffix or 'a file without an ending'}; give {', '.join(FILES)} or a folder")
    return None


def source_of(kind: str, options: Sequence[str], path: str | None = None) -> Source:
    tree: dict[str, Any] = {"source": kind} | ({} if path is None else {"path": path})
    for given in options:
        override(tree, given)
    own: Source = section(Source, {key: tree[key] for key in ("source", "task", "weight") if key in tree}, "data")
    return dataclasses.replace(own, options={key: value for key, value in tree.items() if key not in ("source", "task", "weight")})
