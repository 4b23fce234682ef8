"""Text in pictures: a judge reads it out, and the score is how many of the wanted words it read, of all that were wanted.

An item's `want` is {"text": [...], "language": "en" | "zh", "length"?}. Words count in English, whatever their case; characters in Chinese.
Each counts as often as it is wanted, in any order, and what stands there besides costs nothing. Letters, digits and spaces count alone;
other signs are taken out before the text is cut into words, so that a dash between two of them makes one.

Options: `template`, a file with words of one's own for the judge, as they stand. `compat: official` takes out the last alone of the phrases
that readers make up, and takes an empty answer for a picture without text.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.benchmarks import form
from metabridge.eval.items import Item, Services, Unscored, Verdict
from metabridge.eval.judges import Judge, Message, Request
from metabridge.eval.judges.asking import ParseError, ask
from metabridge.eval.scorers import Judged

PARSER = 1  # raise when an answer is read or counted otherwise
MAX_TOKENS = 1024
NAMED = 8  # missing words named in a reason
PROMPT = """Copy out all text that can be seen in the picture, letter by letter as it is written, mistakes included, in reading order.
Give the text alone, with no remarks, and no passage more often than it stands there.
If the picture holds no text, answer: No text recognized"""

_LETTERS = "a-zA-Z0-9\u4e00-\u9fa5" + "àâäçèéêëîïôöùûü" + "ÀÂÄÇÈÉÊËÎÏÔÖÙÛÜ"
_MADE_UP = re.compile(r"addCriterion|No text recognized\.?")
_MADE_UP_OFFICIAL = re.compile(r"No text recognized\.")
COMPAT = True


def calls(options: Mapping[str, Any], item: Item) -> int:
    return 1


def worst(options: Mapping[str, Any], item: Item) -> dict[str, float]:
    return values(0, wanted(item).total())


def load(options: Mapping[str, Any], services: Services) -> Reading:
    template = form.options(options, "scoring", template="")["template"]
    if services.judge is None:
        raise UserError("scoring: the text is read by a judge, and there is none; give --judge")
    variant, prompt, official = str(services.judge.identity["id"]), PROMPT, services.compat == "official"
    if template:
        prompt = _template(Path(template).expanduser())
        variant += f" template={_hash(prompt)[:8]}"
    return Reading(services.judge, prompt, variant + (" compat=official" if official else ""), official)


def _template(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"scoring.template: {path}: cannot be read ({reason}); give a text file") from error
    if not text:
        raise UserError(f"scoring.template: {path}: nothing in it; write there what the judge is to do")
    return text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Reading(Judged):
    judge: Judge
    prompt: str
    variant: str
    official: bool

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "variant": self.variant,
            "parser": PARSER,
            "judge": dict(self.judge.identity),
            "prompt_sha256": _hash(self.prompt),
            "decoding": {"temperature": 0.0, "max_tokens": MAX_TOKENS},
        }

    def score_one(self, item: Item, image: Image.Image) -> Verdict | Unscored:
        request = Request((Message("user", (image, self.prompt)),), max_tokens=MAX_TOKENS)
        try:
            asked = ask(self.judge, request, str if self.official else _not_empty)
        except Unscored as error:
            return error
        read = without_made_up(asked.value, self.official)
        return verdict(item, read, {"read": read, "answers": [{"asked": len(asked.texts), "text": asked.texts[-1]}]})


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ParseError("it is empty")
    return text


def without_made_up(text: str, official: bool = False) -> str:
    """Without what readers write where there is nothing. The official scorer means to take out all, and takes out the last phrase alone."""
    return (_MADE_UP_OFFICIAL if official else _MADE_UP).sub("", text)


def verdict(item: Item, read: str, detail: Mapping[str, Any]) -> Verdict:
    want = wanted(item)
    lacking = want - Counter(words(read, item.want["language"]))
    total, found = want.total(), want.total() - lacking.total()
    facets = {item.want["length"]: (float(found), float(total))} if "length" in item.want else {}
    return Verdict(values(found, total), _reason(lacking, total), detail, facets)


def wanted(item: Item) -> Counter[str]:
    return Counter(words(" ".join(item.want["text"]), item.want["language"]))


def words(text: str, language: str) -> list[str]:
    """Words in lower case, or characters."""
    if language == "zh":
        return re.findall(f"[{_LETTERS}]", text)
    return re.sub(rf"[^{_LETTERS}\s]", "", text).lower().split()


def values(found: int, total: int) -> dict[str, float]:
    return {"read": float(found), "read.of": float(total)}


def _reason(lacking: Counter[str], total: int) -> str:
    if not lacking:
        return ""
    named = list(lacking.elements())
    return f"{len(named)} of {total} not read: {' '.join(named[:NAMED])}{' ...' if len(named) > NAMED else ''}"
