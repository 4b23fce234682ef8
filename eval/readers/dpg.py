"""DPG-Bench's prompts and the graph of questions about each. The prompts are in the order of their ids, wherever they are read from.

The data folder has dpg_bench.csv, a row a question; and the prompts as prompts/<item_id>.txt, or in dpg_prompts.jsonl, a line each of
{"item_id", "prompt"}; with neither, they are the column `text` of the csv. Blanks around a prompt are left out.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.reading import kind_of
from metabridge.eval import store
from metabridge.eval.benchmarks import form
from metabridge.eval.items import Item

GRAPH, FOLDER, LINES = "dpg_bench.csv", "prompts", "dpg_prompts.jsonl"
GROUP = "dense"
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "category_broad", "question_natural_language")

Question = dict[str, Any]


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    """`options["sha256"]`: of the prompts, as `digest` has it; other prompts are refused."""
    pinned = form.options(options, "prompts", sha256="")["sha256"]
    if data is None:
        raise UserError(f"dpg: no data folder given; it holds {GRAPH}, and the prompts in {FOLDER}/ or {LINES}")
    graphs, texts = _graphs(data / GRAPH)
    prompts = {key: text.strip() for key, text in sorted((_prompts(data) or texts).items())}
    if empty := [key for key, text in prompts.items() if not text]:
        raise UserError(f"{data}: the prompt of {empty[0]} is empty; fetch the prompts again")
    if pinned and digest(prompts) != pinned:
        raise UserError(
            f"{data}: its {len(prompts)} prompts are not those of the benchmark (sha256 {digest(prompts)[:12]}..., pinned is "
            f"{pinned[:12]}...); put the folder dpg_bench/prompts of github.com/TencentQQGYLab/ELLA there as {FOLDER}/"
        )
    for there, other, what in ((prompts, graphs, "no question"), (graphs, prompts, "no prompt")):
        if lost := [key for key in there if key not in other]:
            raise UserError(
                f"{data}: {what} for {len(lost)} of {len(there)} ids, the first is {lost[0]}; fetch {GRAPH} and the prompts again"
            )
    return [Item(number, key, GROUP, text, {"questions": graphs[key]}) for number, (key, text) in enumerate(prompts.items())]


def digest(prompts: Mapping[str, str]) -> str:
    """sha256 of the JSON text of [[id, prompt], ...] in the order of the ids."""
    return hashlib.sha256(json.dumps(sorted(prompts.items()), ensure_ascii=False).encode()).hexdigest()


def _prompts(data: Path) -> dict[str, str]:
    """{} where the folder has no prompts of their own."""
    if (data / FOLDER).is_dir():
        return {path.stem: _text(path) for path in (data / FOLDER).glob("*.txt")}
    return dict(_lines(data / LINES)) if (data / LINES).exists() else {}


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    seen = set()
    for where, row in store.json_lines(path, "item_id and prompt"):
        if not all(isinstance(row.get(key), str) and row[key].strip() for key in ("item_id", "prompt")):
            raise UserError(f"{where}: it is a mapping of item_id and prompt, both text")
        if row["item_id"] in seen:
            raise UserError(f"{where}: item_id {row['item_id']} a second time")
        seen.add(row["item_id"])
        yield row["item_id"], row["prompt"]


def _graphs(path: Path) -> tuple[dict[str, list[Question]], dict[str, str]]:
    """The questions of each id, in the order of the file, and its text there."""
    graphs: dict[str, list[Question]] = {}
    texts: dict[str, str] = {}
    rows = csv.DictReader(io.StringIO(_text(path).removeprefix("\ufeff"), newline=""), strict=True)
    try:
        if lost := [column for column in COLUMNS if column not in (rows.fieldnames or ())]:
            raise UserError(f"{path}: no column {lost[0]}; its first line names {', '.join(COLUMNS)}")
        for row in rows:
            key = (row["item_id"] or "").strip()
            question = _question(row, f"{path}: line {rows.line_num}")
            if not graphs:
                question["first_row"] = True  # which the official scorer takes for the line of names
            if any(question["id"] == other["id"] for other in graphs.setdefault(key, [])):
                raise UserError(f"{path}: line {rows.line_num}: question {question['id']} of {key} a second time")
            graphs[key].append(question)
            texts.setdefault(key, row["text"] or "")
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.reader.line_num}: no valid CSV ({error})") from error
    for key, questions in graphs.items():
        ids = {question["id"] for question in questions}
        for question in questions:
            if lost_parents := set(question["parents"]) - ids:
                raise UserError(f"{path}: {key}: question {question['id']} depends on {min(lost_parents)}, which is not there")
    return graphs, texts


def _question(row: Mapping[str, str | None], where: str) -> Question:
    given = {column: (row[column] or "").strip() for column in COLUMNS}
    for column in ("item_id", "category_broad", "question_natural_language"):
        if not given[column]:
            raise UserError(f"{where}: {column}: {kind_of(given[column])} given; it is text")
    if not re.fullmatch(r"[\w-]+", given["item_id"]):
        raise UserError(f"{where}: item_id: {given['item_id']!r} given; it is a name of letters, digits, _ and -")
    parents = [_whole(part, f"{where}: dependency") for part in given["dependency"].split(",")]
    return {
        "id": _whole(given["proposition_id"], f"{where}: proposition_id"),
        "text": given["question_natural_language"],
        "parents": [parent for parent in parents if parent],  # 0: it depends on none
        "facets": [given["category_broad"]],
    }


def _whole(text: str, where: str) -> int:
    if not text.strip().isdecimal():
        raise UserError(f"{where}: {text!r} given; it is a whole number, or several with commas between them; 0 is none")
    return int(text)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); fetch the benchmark's data again"
        ) from error
