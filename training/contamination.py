"""Whether prompts of the data stand in a benchmark, so that a score on it would say less than it seems to.

exact     the same words: case, punctuation and spacing do not count
near      without articles (a, an, the), Jaccard >= 0.8 of the sets of word 3-grams, both ends padded with two blanks; or the whole of a
          benchmark's prompt, of eight words or more, stands word for word inside a longer one
template  made as GenEval's prompts are, "a photo of two clocks", whether or not this one is among its 553

A word stands in three 3-grams, so one word replaced is a near duplicate from 25 words on and one added from 20; among shorter prompts,
where each word is a thing to draw ("a red star" is not "a blue star"), none but the articles may differ.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError

NEAR = 0.8  # Jaccard
INSIDE = 8  # words that a prompt must have for being found inside another
ARTICLES = frozenset({"a", "an", "the"})
KEYS = ("prompt", "text", "caption")  # under which lists keep a prompt, in any case
GENEVAL = "GenEval's templates"
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")  # where none are spaced, a character is a word

Gram = tuple[str, str, str]


@dataclass(frozen=True)
class Hit:
    """A prompt of the data in a benchmark."""

    benchmark: str
    how: str  # exact | near | template
    theirs: str  # the benchmark's prompt, or the template's name


def words(text: str) -> list[str]:
    """What is compared: no case, no punctuation, no widths of characters."""
    return _WORD.findall((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold())


def grams(bare: Sequence[str]) -> list[Gram]:
    padded = ("", "", *bare, "", "")
    return list(zip(padded, padded[1:], padded[2:], strict=False))


class Benchmarks:
    """Lists of prompts by name, indexed so that a prompt of the data costs some tens of microseconds, however many they are."""

    def __init__(self, lists: Mapping[str, Sequence[str]]) -> None:
        self.prompts = [(name, prompt) for name, prompts in lists.items() for prompt in dict.fromkeys(prompts) if words(prompt)]
        bare = [[word for word in words(prompt) if word not in ARTICLES] for _, prompt in self.prompts]
        self._sets = [frozenset(grams(row)) for row in bare]
        self._bare = [tuple(row) for row in bare]
        self._exact: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._near: dict[Gram, list[int]] = defaultdict(list)
        self._inside: dict[Gram, list[tuple[int, int]]] = defaultdict(list)  # prompt, and where in it the 3-gram stands
        common = Counter(gram for row in self._sets for gram in row)
        for number, (_, prompt) in enumerate(self.prompts):
            self._exact[tuple(words(prompt))].append(number)
            # a set that shares at least NEAR of these holds one of any that are more than 1 - NEAR of them: the rarest
            enough = len(self._sets[number]) - _at_least(len(self._sets[number])) + 1
            for gram in sorted(self._sets[number], key=lambda gram: (common[gram], gram))[:enough]:
                self._near[gram].append(number)
            if len(self._bare[number]) >= INSIDE:
                inner = grams(self._bare[number])[2:-2]
                gram = min(inner, key=lambda gram: (common[gram], gram))
                self._inside[gram].append((number, inner.index(gram)))

    def hits(self, prompt: str) -> list[Hit]:
        """One a benchmark, exact before near."""
        said = words(prompt)
        found = dict.fromkeys(self._exact.get(tuple(said), ()), "exact")
        bare = [word for word in said if word not in ARTICLES]
        row = grams(bare)
        held = frozenset(row)
        for gram in self._near.keys() & held:
            for number in self._near[gram]:
                if number not in found and len(held & self._sets[number]) >= NEAR * len(held | self._sets[number]):
                    found[number] = "near"
        for gram in self._inside.keys() & held:
            for place in (place for place, other in enumerate(row) if other == gram):
                for number, offset in self._inside[gram]:
                    start, theirs = place - 2 - offset, self._bare[number]
                    if start >= 0 and tuple(bare[start : start + len(theirs)]) == theirs:
                        found.setdefault(number, "near")
        hits: dict[str, Hit] = {}
        for number, how in sorted(found.items(), key=lambda item: (item[1] != "exact", item[0])):
            name, text = self.prompts[number]
            hits.setdefault(name, Hit(name, how, text))
        if template := geneval_template(said):
            hits[GENEVAL] = Hit(GENEVAL, "template", template)
        return list(hits.values())


def _at_least(size: int) -> int:
    """How many 3-grams of a prompt's `size` another must share: Jaccard >= t needs an intersection of t times the union, or more."""
    return -int(-NEAR * size // 1)


def read_prompts(path: Path) -> list[str]:
    """Prompts of a file: a line each (.txt), rows with a prompt (.jsonl, .csv), or a tree of such (.json)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            rows: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif path.suffix == ".json":
            rows = json.loads(text)
        elif path.suffix == ".csv":
            rows = list(csv.DictReader(text.splitlines(keepends=True)))
        elif path.suffix == ".txt":
            return [line.strip() for line in text.splitlines() if line.strip()]
        else:
            raise UserError(f"{path}: no list of prompts; give .txt (a line each), .jsonl, .json or .csv (with a prompt in each row)")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give a list of a benchmark's prompts") from error
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read as {path.suffix} ({' '.join(str(error).split())[:100]}); mend it") from error
    return list(_strings(rows))


def read_lists(path: Path) -> dict[str, list[str]]:
    """A file of prompts, or every .jsonl and .json below a folder that holds any; by name."""
    if not path.is_dir():
        if not (prompts := read_prompts(path)):
            raise UserError(f"{path}: no prompts in it; its rows need one of {', '.join(KEYS)}")
        return {path.stem: prompts}
    files = sorted(file for file in path.rglob("*") if file.suffix in (".jsonl", ".json"))
    lists = {str(file.relative_to(path).with_suffix("")): read_prompts(file) for file in files}
    if not any(lists.values()):
        raise UserError(f"{path}: no lists of prompts in it; give .jsonl or .json files whose rows have one of {', '.join(KEYS)}")
    return {name: prompts for name, prompts in lists.items() if prompts}


def _strings(node: Any) -> Iterator[str]:
    """The prompts of a tree: strings of a list, or what rows keep under one of KEYS, else of the rows below them."""
    if isinstance(node, list):
        for row in node:
            if isinstance(row, str):
                yield row
            else:
                yield from _strings(row)
    elif isinstance(node, Mapping):
        keys = {str(key).lower(): value for key, value in node.items()}
        if (prompt := next((keys[key] for key in KEYS if isinstance(keys.get(key), str)), None)) is not None:
            yield prompt
        else:
            for value in node.values():
                if isinstance(value, Mapping | list) and not (isinstance(value, list) and value and isinstance(value[0], str)):
                    yield from _strings(value)


# GenEval's prompts are made from COCO's classes, ten colors, four places and numbers; its plurals add s or es, whatever the word.
_THINGS = (
    "person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|parking meter|bench|bird|cat|dog|"
    "horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|handbag|tie|suitcase|frisbee|skis|snowboard|sports ball|kite|"
    "baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle|wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|"
    "orange|broccoli|carrot|hot dog|pizza|donut|cake|chair|couch|potted plant|bed|dining table|toilet|tv|laptop|computer mouse|mouse|"
    "tv remote|remote|computer keyboard|keyboard|cell phone|microwave|oven|toaster|sink|refrigerator|book|clock|vase|scissors|"
    "teddy bear|hair drier|toothbrush"
)
_ONE = rf"an? (?:{_THINGS})"
_MANY = rf"(?:two|three|four|five|six|seven|eight|nine|ten) (?:(?:{_THINGS})(?:e?s)?|people|knives|mice)"
_COLORED = rf"an? (?:red|orange|yellow|green|blue|purple|pink|brown|black|white) (?:{_THINGS})"
_TEMPLATES = {
    "single_object": _ONE,
    "two_object": rf"{_ONE} and {_ONE}",
    "counting": _MANY,
    "colors": _COLORED,
    "position": rf"{_ONE} (?:left of|right of|above|below) {_ONE}",
    "color_attr": rf"{_COLORED} and {_COLORED}",
}
_GENEVAL = {tag: re.compile(rf"a photo of {what}") for tag, what in _TEMPLATES.items()}


def geneval_template(said: Sequence[str]) -> str | None:
    """The tag of the template that these words are made from."""
    if tuple(said[:3]) != ("a", "photo", "of"):
        return None
    text = " ".join(said)
    return next((tag for tag, pattern in _GENEVAL.items() if pattern.fullmatch(text)), None)
