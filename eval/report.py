"""A result as tables, and an evaluation as one self-contained page: numbers, figures, contact sheets, what was measured."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from metabridge.eval import plot, sheet, store
from metabridge.eval.result import BASELINE, Cell, Group
from metabridge.eval.score import Scored

NATIVE = "hand's own text encoder"
NAMES = {
    "overall": "overall",
    "single": "single",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colors",
    "position": "position",
    "color_attr": "color attribution",
    "color_fact": "color fact",
    "shape_fact": "shape fact",
    "number_fact": "number fact",
    "arithmetic": "arithmetic",
    "two_hop": "two-hop",
    "negation": "negation",
    "comparison": "comparison",
}
SECTIONS = (
    ("bridge", "composition", "Composition: the bridge"),
    ("think", "reasoning", "Reasoning with think: the brain's thought stands below the prompt"),
    ("bridge", "reasoning", "Reasoning, implicit: no thought"),
    ("native", "composition", f"Composition: the {NATIVE}"),
)


@dataclass(frozen=True)
class Entry:
    """A number of a table and what stands smaller beside it."""

    value: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.interval}".strip()


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    columns: tuple[str, ...]  # the first names the row
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]


@dataclass(frozen=True)
class Figure:
    """A picture with its heading; `image` is a data URI or, as a plot, inline SVG."""

    title: str
    image: str = ""
    svg: str = ""


@dataclass(frozen=True)
class Page:
    title: str
    lead: str
    cards: Sequence[tuple[str, Entry, str]]  # (what, number, beside what)
    tables: Sequence[tuple[Table, Sequence[Figure]]]
    sheets: Sequence[tuple[str, Sequence[Figure]]]
    identity: Sequence[tuple[str, str]]
    warnings: Sequence[str] = ()
    commands: Sequence[tuple[str, str, str]] = ()  # (command, what it did, time)
    before: Sequence[tuple[str, str, Sequence[Figure]]] = ()  # (heading, text, figures), above the tables


def render(page: Page) -> str:
    source = resources.files("metabridge.eval").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source).render(page=page)


def write(page: Page, path: Path) -> Path:
    store.write(path, render(page).encode())
    return path


def page(scored: Sequence[Scored], result: Mapping[str, Any], folder: Path) -> Page:
    """The report of one evaluation; its contact sheets are written on the way."""
    benchmark, bridge = result["identity"]["benchmark"], result["identity"]["bridge"]
    results = {"bridge": result}
    return Page(
        title=f"{benchmark['name']}: {bridge['name']}",
        lead=f"{size(benchmark)}, scored exactly from pixels.",
        cards=cards(result),
        tables=[
            (composition(results), [composition_plot(results)]),
            (reasoning(results), [reasoning_plot(result)]),
            *((table, []) for table in held_out(result)),
        ],
        sheets=sheets(scored, folder),
        identity=identity(result["identity"]),
        warnings=warnings(result),
    )


def size(benchmark: Mapping[str, Any]) -> str:
    """ "100 prompts of each tag and kind, 2 pictures a prompt", or how many of which."""
    kinds: dict[int, list[str]] = {}
    for kind, number in benchmark["prompts"].items():
        kinds.setdefault(number, []).append(NAMES.get(kind, kind))
    numbers = sorted(kinds, reverse=True)
    prompts = (
        [f"{number} of {', '.join(kinds[number])}" for number in numbers] if len(numbers) > 1 else [f"{numbers[0]} of each tag and kind"]
    )
    pictures = benchmark["images_per_prompt"]
    return f"Prompts: {'; '.join(prompts)}. {pictures} picture{'s' if pictures > 1 else ''} a prompt"


def cards(result: Mapping[str, Any]) -> list[tuple[str, Entry, str]]:
    """The four numbers to read first."""
    scores, found = result["scores"], []
    native = result["baselines"].get(BASELINE, {}).get("composition", {}).get("overall")
    beside = f"{NATIVE}: {entry(native)}" if native else "mean of the tags"
    found.append(("Composition, overall", entry(scores["composition"]["overall"]), beside))
    found.append(("Composition, single", entry(scores["composition"]["single"]), "one object, any color"))
    for mode, what in (("think", "Reasoning with think"), ("implicit", "Reasoning, implicit")):
        cell = scores["reasoning"][mode]["overall"]
        found.append((what, entry(cell), f"chance: {cell['chance']:.2f}"))
    return found


def composition_plot(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    groups = [(name, result["scores"]["composition"]) for name, result in results.items()]
    native = next(iter(results.values()))["baselines"].get(BASELINE)
    series = [plot.Series(name, group, color) for (name, group), color in zip(groups, plot.BRIDGES, strict=False)]
    if native:
        series.append(plot.Series(NATIVE, native["composition"], plot.BASELINE))
    return Figure("Composition by tag, with 95% intervals", svg=plot.bars(series, NAMES))


def reasoning_plot(result: Mapping[str, Any], name: str = "") -> Figure:
    scores = result["scores"]["reasoning"]
    series = [plot.Series(mode, scores[mode], color) for mode, color in (("implicit", plot.IMPLICIT), ("think", plot.THINK))]
    return Figure(f"Reasoning by kind{name and f': {name}'}, with 95% intervals", svg=plot.bars(series, NAMES))


def entry(cell: Cell | None, *, signed: bool = False) -> Entry:
    if cell is None:
        return Entry("")
    if cell["value"] is None:
        return Entry("n/a", f"({cell['unscored']} of {cell['n']} unscored)")
    form = "{:+.2f}" if signed else "{:.2f}"
    low, high, value = (form.format(round(cell[key], 2) + 0.0) for key in ("low", "high", "value"))
    return Entry(value, f"[{low}, {high}]")


def composition(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Rows are tags; a column a bridge, then the baseline and the first bridge's difference from it."""
    first = next(iter(results.values()))
    columns: list[tuple[str, Group, bool]] = [(name, result["scores"]["composition"], False) for name, result in results.items()]
    if BASELINE in first["baselines"]:
        columns.append((NATIVE, first["baselines"][BASELINE]["composition"], False))
        name = "difference" if len(results) == 1 else f"{next(iter(results))} - hand's own"
        columns.append((name, first["differences"][f"bridge - {BASELINE}"]["composition"], True))
    return _table("Composition", "Share of pictures that show exactly what the prompt says.", "tag", columns)


def reasoning(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Rows are kinds; implicit and think of each bridge, the difference of the two for a single one, and chance."""
    columns: list[tuple[str, Group, bool]] = []
    for name, result in results.items():
        prefix = f"{name}, " if len(results) > 1 else ""
        columns += [(f"{prefix}{mode}", result["scores"]["reasoning"][mode], False) for mode in ("implicit", "think")]
    first = next(iter(results.values()))
    if len(results) == 1:
        columns.append(("difference", first["differences"]["think - implicit"]["reasoning"], True))
    table = _table(
        "Reasoning",
        "Share of pictures that show what the prompt means. Implicit: the queries stand right after the prompt. Think: the brain writes a "
        "thought first. Chance: what the words say is drawn and the fact is guessed.",
        "kind",
        columns,
    )
    guesses = [first["scores"]["reasoning"]["implicit"][kind].get("chance") for kind in first["scores"]["reasoning"]["implicit"]]
    rows = [
        (label, (*entries, Entry("" if guess is None else f"{guess:.2f}")))
        for (label, entries), guess in zip(table.rows, guesses, strict=True)
    ]
    return Table(table.title, table.note, (*table.columns, "chance"), tuple(rows))


def headline(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """The overall numbers of each bridge, and single, in one table; the baseline and chance where there are such."""
    first = next(iter(results.values()))
    native = first["baselines"].get(BASELINE, {}).get("composition", {})
    rows: list[tuple[str, list[Cell | None], float | None]] = [
        (f"composition, {NAMES[kind]}", [*(r["scores"]["composition"][kind] for r in results.values()), native.get(kind)], None)
        for kind in first["scores"]["composition"]
    ]
    for mode in ("implicit", "think"):
        cells = [r["scores"]["reasoning"][mode]["overall"] for r in results.values()]
        rows.append((f"reasoning, {mode}", [*cells, None], cells[0]["chance"]))
    return Table(
        "What it scores",
        "",
        ("", *results, NATIVE, "chance"),
        tuple((label, (*map(entry, cells), Entry("" if guess is None else f"{guess:.2f}"))) for label, cells, guess in rows),
    )


def held_out(result: Mapping[str, Any]) -> list[Table]:
    """Seen and held-out pairings side by side, for the tags and kinds that have both."""
    apart, tables = result["held_out"], []
    groups: list[tuple[str, str, str, list[tuple[str, Any]]]] = [
        (
            "Held-out color and shape pairs",
            "Neither the hand's denoiser and text encoder nor the connector were trained on these pairs, though on each color and each "
            "shape in others. The hand's autoencoder, which knows pixels and no words, was.",
            "tag",
            [("bridge", lambda r: r["scores"]["composition"]), (NATIVE, lambda r: r["baselines"].get(BASELINE, {}).get("composition"))],
        ),
        (
            "Held-out fact pairings",
            "The facts are the brain's; these pairings never occurred in its think-rewrites. "
            "Thought: share of thoughts that are the canonical rewrite, word for word.",
            "kind",
            [("think", lambda r: r["scores"]["reasoning"]["think"]), ("thought", lambda r: r["thoughts"])],
        ),
    ]
    for title, note, label, columns in groups:
        pairs = [(name, get(result), get(apart)) for name, get in columns if get(apart)]
        if not pairs:
            continue
        kinds = [kind for kind in pairs[0][2] if label == "kind" or kind != "overall"]
        flat = [
            (f"{name}, {split}", {kind: g[kind] for kind in kinds}, False)
            for name, *two in pairs
            for split, g in zip(_SPLITS, two, strict=True)
        ]
        tables.append(_table(title, note, label, flat))
    return tables


_SPLITS = ("seen", "held out")


def comparison(title: str, names: tuple[str, str], groups: tuple[Group, Group], gap: Group) -> Table:
    """Two evaluations on the pictures they share, and their paired difference."""
    columns = [(name, group, False) for name, group in zip(names, groups, strict=True)]
    return _table(title, "Paired: same prompts, same seeds.", "kind", [*columns, ("difference", gap, True)])


def _table(title: str, note: str, label: str, columns: Sequence[tuple[str, Group, bool]]) -> Table:
    kinds = list(columns[0][1])
    rows = tuple((NAMES.get(kind, kind), tuple(entry(group.get(kind), signed=signed) for _, group, signed in columns)) for kind in kinds)
    return Table(title, note, (label, *(name for name, _, _ in columns)), rows)


def sheets(scored: Sequence[Scored], folder: Path) -> list[tuple[str, list[Figure]]]:
    """Write `sheets/<row>-<kind>.png` and hand them back for the page, grouped as in SECTIONS."""
    sections = []
    for row, part, title in SECTIONS:
        of_row = [s for s in scored if s.sample.row == row and s.sample.item.part == part and not s.sample.item.held_out]
        figures = []
        for kind in dict.fromkeys(s.sample.item.kind for s in of_row):
            tiles = [s for s in of_row if s.sample.item.kind == kind]
            data = sheet.save(sheet.sheet(tiles, folder), folder / "sheets" / f"{row}-{kind}.png")
            right, shown = sum(s.correct for s in tiles), len(sheet.choose(tiles))
            figures.append(Figure(f"{NAMES.get(kind, kind)}: {right} of {len(tiles)} right, {shown} shown, worst first", data_uri(data)))
        if figures:
            sections.append((title, figures))
    return sections


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def identity(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested identity as lines: `bridge.brain.repo`, value."""
    lines: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines += identity(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
    return lines


def warnings(result: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the numbers."""
    pictures, lines = result["pictures"], []
    total = sum(pictures.values())
    if pictures["infra_error"]:
        lines.append(f"Incomplete: {pictures['infra_error']} of {total} pictures are not scored. Run the same command again to finish.")
    if pictures["model_error"]:
        lines.append(f"{pictures['model_error']} of {total} pictures had NaN or infinite pixels; they count as wrong.")
    return lines
