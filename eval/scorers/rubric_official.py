"""What the benchmarks' own scripts read from an answer, defects included: for audits (`compat: official`), never by default.

They take scores that are off their scale (the first digit of "3" or "1.5" in WISE, any list in GEdit, any whole number in ImgEdit) and
average what is left of an answer; a value made of such scores is the official script's, and the verdict says so. Where an official script
goes on with a random number (GEdit) or breaks down, there is no score here either.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metabridge.eval.judges.asking import ParseError
from metabridge.eval.scorers.rubric_parse import Parse, Reading, Scale, reasoning, short

# A call's name and scales -> what its answers say. The parts below return what the official functions do, for any text.
Official = Callable[[str, Sequence[Scale]], Parse]


def wise_legacy_scores(text: str) -> dict[str, float]:
    """The last digit after each name; without any name, the first three lines that are one of 0, 1, 2."""
    named = re.findall(r"(consistency|realism|aesthetic quality)\*{0,2}\s*:?\s*(\d)", text, re.IGNORECASE)
    scores = {name.lower().replace(" ", "_"): float(digit) for name, digit in named}
    bare = _bare(text, ("0", "1", "2"))
    if not scores and len(bare) >= 3:
        scores = dict(zip(("consistency", "realism", "aesthetic_quality"), map(float, bare[:3]), strict=True))
    return scores


def wise_verified_scores(text: str) -> dict[str, float]:
    """The first 0 or 1 after the word; without the word, the one line that is 0 or 1."""
    named = re.search(r"score\*{0,2}\s*:?\s*([01])\b", text, re.IGNORECASE)
    bare = _bare(text, ("0", "1"))
    if named:
        return {"score": float(named[1])}
    return {"score": float(bare[0])} if len(bare) == 1 else {}


def _bare(text: str, digits: Sequence[str]) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip() in digits]


def imgedit_average(text: str) -> float | None:
    """The mean of all lines of one ": " that end in digits, in two decimals."""
    lines = (line.strip().split(": ") for line in text.splitlines())
    scores = [int(parts[1]) for parts in lines if len(parts) == 2 and parts[1].isdigit()]
    return round(sum(scores) / len(scores), 2) if scores else None


def rise_numbers(text: str) -> list[int] | None:
    """The numbers that stand in a row after the first "Final Score" that has any, else after "Final Scores"; [] where that has none."""
    for name in ("final score", "final scores"):
        rows = re.findall(rf"{name}\*{{0,2}}:?\s*([\d\s,*]*)", text, re.IGNORECASE)
        for row in rows:
            if numbers := re.findall(r"\d+", row):
                return [int(number) for number in numbers]
    return [] if rows else None


def viescore_answer(text: str) -> Any:
    """A mapping; False where the script asks once more, and after that goes on with a random number; "rate_limit_exceeded".

    As in the script, some answers end in an exception of json, as a bare list with a leading zero.
    """
    if text == "rate_limit_exceeded":
        return text
    start, end = text.find("{"), text.rfind("}") + 1
    if text.count(_DELIMITER) == 2:
        start, end = text.find(_DELIMITER) + len(_DELIMITER), text.rfind(_DELIMITER)
    elif start == -1 or end == 0:
        return _without_object(text)
    if start == end:
        return False
    inner = text[start:end].strip().replace("\n", "")
    try:
        answer = json.loads(inner)
        if not isinstance(answer["score"], list):
            answer["score"] = [answer["score"]]
    except Exception:  # whatever goes wrong, the script mends the text and tries again
        try:
            return json.loads(_mended(inner))
        except Exception:
            return False
    return answer


_DELIMITER = "||V^=^V||"


def _without_object(text: str) -> Any:
    piece = text[text.find("[") : text.rfind("]") + 1]
    if re.match(r"\[\d+, ?\d+\]$", piece):
        return {"score": json.loads(piece), "reasoning": "System: output is simply a list of scores"}
    try:
        number = int(text)
    except ValueError:
        return False
    return {"score": [number], "reasoning": "System: output is simply a number"} if 0 <= number <= 10 else False


def _mended(text: str) -> str:
    """Words before a colon in quotes, then each key's value: a number in brackets, true, false, null as they are, all else in quotes."""

    def entry(match: re.Match[str]) -> str:
        value = match[2].strip()
        if re.match(r"-?\d+(?:\.\d+)?$", value):
            value = f"[{value}]"
        elif value.lower() not in ("true", "false", "null"):
            value = f'"{value}"'
        return f"{match[1]}: {value}{match[3]}"

    return re.sub(r'(".*?"):(.*?)([,}])', entry, re.sub(r"(\w+):", r'"\1":', text))


def _wise_legacy(name: str, scales: Sequence[Scale]) -> Parse:
    return lambda text: Reading(_all(wise_legacy_scores(text), scales))


def _wise_verified(name: str, scales: Sequence[Scale]) -> Parse:
    return lambda text: Reading(_all(wise_verified_scores(text), scales))


def _all(scores: Mapping[str, float], scales: Sequence[Scale]) -> Mapping[str, float]:
    if missing := [scale.name for scale in scales if scale.name not in scores]:
        raise ParseError(f"no score for {', '.join(missing)}")
    return scores


def _imgedit(name: str, scales: Sequence[Scale]) -> Parse:
    def parse(text: str) -> Reading:
        average = _or_none(imgedit_average, text)
        if average is None:
            raise ParseError("no line ends in a whole number")
        return Reading({}, _said(average, scales[0], reasoning(text)), {name: average})

    return parse


def _rise(name: str, scales: Sequence[Scale]) -> Parse:
    def parse(text: str) -> Reading:
        numbers = _or_none(rise_numbers, text)
        if not numbers or len(numbers) != len(scales):
            raise ParseError(f"{len(numbers or [])} numbers after Final Score, {len(scales)} are asked for")
        return Reading({scale.name: float(number) for scale, number in zip(scales, numbers, strict=True)})

    return parse


def _viescore(name: str, scales: Sequence[Scale]) -> Parse:
    """The least of the list, however long it is. The official script breaks down at one that is no number, or negative."""

    def parse(text: str) -> Reading:
        answer = _or_none(viescore_answer, text)
        if answer == "rate_limit_exceeded":
            raise ParseError("rate_limit_exceeded")
        given = answer.get("score") if isinstance(answer, dict) else None
        if not isinstance(given, list) or not given or not all(isinstance(value, int | float) and 0 <= value < math.inf for value in given):
            raise ParseError("no list of scores; the official script would go on with a random number or break down, here it has none")
        return Reading({}, _said(min(given), scales[0], short(answer.get("reasoning"))), {name: float(min(given))})

    return parse


def _said(value: float, scale: Scale, words: str) -> str:
    return words if scale.low <= value <= scale.high else f"{value:g}, off the scale of {scale}: {words}".rstrip(": ")


def _or_none(read: Callable[[str], Any], text: str) -> Any:
    """What an official function returns; nothing where it breaks down."""
    try:
        return read(text)
    except (ValueError, RecursionError, OverflowError):
        return None


PARSERS: dict[str, Official] = {
    "wise_legacy": _wise_legacy,
    "wise_verified": _wise_verified,
    "imgedit": _imgedit,
    "rise": _rise,
    "viescore": _viescore,
}
