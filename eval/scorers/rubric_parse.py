"""Scores from a judge's answer: the form that was asked for, some forms that mean the same, else a ParseError. Never a guess.

Tolerated beside `Name: 2` on a line of its own: bold and other marks, code fences, list marks, full-width colons and digits, other case,
`Name 2`, `Name = 2`, `Name - 2`, `Name is 2`, `Name score: 2`, several on one line between commas, `2.` and `2.0`, `2/5` and `2 out of 5`
where 5 is the top of the scale, `Final Name: 2`, a comment without digits after it, and the numbers alone, a line each, as many as were
asked for.
Of JSON: a code fence, text around the object, the bare list of scores. The same score twice is one; two that differ are none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metabridge.eval.judges.asking import ParseError

_PLAIN = str.maketrans("０１２３４５６７８９：／＝．", "0123456789:/=.", "*`")
_FENCE = re.compile(r"```(?:[a-z]+(?=\s))?")
_LEAD = r"\s*(?:[-•]\s+|#+\s+|[0-9]{1,2}[.)]\s+)?"  # marks of a list or heading
_BETWEEN = r"(?:\s*[:=]+\s*|\s+[-–—]\s+|\s+is\s+|\s+(?=[0-9]))"  # a name and its score
_ALONE = re.compile(r"[0-9]{1,6}(?:\.0*)?(?:\s*/\s*[0-9]{1,6})?")
_VALUE = re.compile(
    r"([0-9]{1,6})(?:\.0*)?(?:\s*(?:/|\bout of\b)\s*([0-9]{1,6}))?(?:\s+points?)?[.,;]?(?:\s*[-–—(,;:][^0-9]*)?\s*$", re.IGNORECASE
)
_MOST = 200_000  # characters: an answer longer than any judge is let write is not searched
_OBJECTS = 100  # places where a JSON object may begin that are looked at


@dataclass(frozen=True)
class Scale:
    name: str  # as the judge writes it, with _ for blanks
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Reading:
    """What an answer says."""

    scores: Mapping[str, float]
    reason: str = ""  # the judge's own words for them
    values: Mapping[str, float] = field(default_factory=dict)  # of the benchmark, where the parser and not a formula makes them


Parse = Callable[[str], Reading]  # raises ParseError


def lines(name: str, scales: Sequence[Scale]) -> Parse:
    """`Name: score`, a line a scale."""
    titles = {scale.name: re.compile(_words(scale.name) + r"(?:\s+score)?", re.IGNORECASE) for scale in scales}
    starts = re.compile(rf"[,;|]\s*(?={'|'.join(title.pattern for title in titles.values())})", re.IGNORECASE)

    def parse(text: str) -> Reading:
        plain = starts.sub("\n", _plain(text))
        found: dict[str, set[float]] = {}
        for scale in scales:
            for rest in _rests(plain, titles[scale.name]):
                found.setdefault(scale.name, set()).add(_score(rest, scale))
            if scale.name in found:
                found[scale.name] |= _in_passing(plain, titles[scale.name])
        if not found:
            found = {called: {value} for called, value in _alone(plain, scales).items()}
        return Reading({scale.name: _one(found.get(scale.name), scale.name) for scale in scales}, reasoning(plain))

    return parse


def any_lines(name: str, scales: Sequence[Scale]) -> Parse:
    """As `lines`, but the judge's text decides what the scores are called: as many different names as there are scales, in their order."""
    line = re.compile(rf"{_LEAD}([^\W\d][^:=0-9]{{0,60}}?)\s*[:=]+\s*([-+0-9].*)$")

    def parse(text: str) -> Reading:
        plain = _plain(text)
        found: dict[str, list[str]] = {}
        for match in filter(None, map(line.match, plain.splitlines())):
            if "reasoning" not in match[1].lower():
                found.setdefault(" ".join(match[1].lower().split()), []).append(match[2])
        if not found:
            return Reading(dict(_alone(plain, scales) or _none(scales)), reasoning(plain))
        if len(found) != len(scales):
            raise ParseError(f"{len(found)} scores, {len(scales)} are asked for")
        pairs = zip(scales, found.items(), strict=True)
        return Reading({scale.name: _one({_score(r, scale) for r in rests}, called) for scale, (called, rests) in pairs}, reasoning(plain))

    return parse


def json_scores(name: str, scales: Sequence[Scale]) -> Parse:
    """`{"score": [a, b], "reasoning": "..."}`: a number a scale, in their order; a fraction is one."""

    def parse(text: str) -> Reading:
        answers = {_key(answer): answer for answer in _answers(text)}
        if len(answers) != 1:
            raise ParseError("two answers that differ" if answers else 'no {"score": [...]} in it')
        answer = next(iter(answers.values()))
        given = answer["score"]
        if not isinstance(given, list) or len(given) != len(scales):
            raise ParseError(f"score: {str(given)[:40]} given; it is a list of {len(scales)}")
        scores = {scale.name: _number(value, scale) for scale, value in zip(scales, given, strict=True)}
        return Reading(scores, short(answer.get("reasoning")))

    return parse


def reasoning(plain: str) -> str:
    """What stands after "Brief reasoning:" or "Reason:", for people."""
    match = re.search(r"^[^\w\n]*(?:brief\s+)?reason(?:ing)?\s*:\s*(\S.*)$", plain, re.IGNORECASE | re.MULTILINE)
    return short(match[1]) if match else ""


def short(text: Any) -> str:
    """For a report; nothing where it is no text."""
    words = " ".join(text.split()) if isinstance(text, str) else ""
    return words if len(words) <= 300 else words[:297] + "..."


def _plain(text: str) -> str:
    """Without code fences and marks."""
    if len(text) > _MOST:
        raise ParseError("an answer of more than 200,000 characters")
    return _FENCE.sub("", text).translate(_PLAIN)


def _words(name: str) -> str:
    return r"[\s_]+".join(map(re.escape, name.split("_")))


def _rests(plain: str, title: re.Pattern[str]) -> Iterator[str]:
    """What follows the name where a line begins with it and goes on with a digit or a sign; other lines are prose."""
    for line in plain.splitlines():
        match = re.match(rf"{_LEAD}(?:final\s+)?{title.pattern}{_BETWEEN}([-+0-9].*)$", line, re.IGNORECASE)
        if match:
            yield match[1]


def _in_passing(plain: str, title: re.Pattern[str]) -> set[float]:
    """Scores that stand in the middle of a line: no answer by themselves, but a second one if they differ."""
    return {float(digits) for digits in re.findall(rf"\b{title.pattern}\s*[:=]\s*([0-9]{{1,6}})", plain, re.IGNORECASE)}


def _score(rest: str, scale: Scale) -> float:
    match = _VALUE.match(rest)
    if match is None:
        raise ParseError(f"{scale.name}: {rest.strip()[:40]!r} is no whole number of {scale}")
    if match[2] is not None and float(match[2]) != scale.high:
        raise ParseError(f"{scale.name}: of {match[2]}, the scale is {scale}")
    return _in_range(float(match[1]), scale)


def _in_range(value: float, scale: Scale) -> float:
    if not scale.low <= value <= scale.high:  # also refuses NaN
        raise ParseError(f"{scale.name}: {value:g} is not on the scale of {scale}")
    return value


def _one(found: set[float] | None, name: str) -> float:
    if not found:
        raise ParseError(f"no score for {name}")
    if len(found) > 1:
        raise ParseError(f"{name}: {' and '.join(f'{value:g}' for value in sorted(found))}, it is one score")
    return next(iter(found))


def _none(scales: Sequence[Scale]) -> dict[str, float]:
    raise ParseError(f"no score, {len(scales)} are asked for")


def _alone(plain: str, scales: Sequence[Scale]) -> dict[str, float]:
    """The numbers alone, a line each; nothing where the answer is anything else."""
    rows = [line.strip() for line in plain.splitlines() if line.strip()]
    if len(rows) != len(scales) or not all(map(_ALONE.fullmatch, rows)):
        return {}
    return {scale.name: _score(row, scale) for scale, row in zip(scales, rows, strict=True)}


def _answers(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object with a score; without any object, the list of scores alone."""
    if len(text) > _MOST:
        raise ParseError("an answer of more than 200,000 characters")
    decoder, bare = json.JSONDecoder(strict=False), _FENCE.sub("", text).strip()
    place = bare.find("{")
    if place < 0 and bare.startswith("["):
        yield {"score": _decoded(decoder, bare, 0, whole=True)[0]}
    for _ in range(_OBJECTS):
        if place < 0:
            return
        value, end = _decoded(decoder, bare, place)
        if isinstance(value, dict) and "score" in value:
            yield value
        place = bare.find("{", max(end, place + 1))


def _decoded(decoder: json.JSONDecoder, text: str, place: int, whole: bool = False) -> tuple[Any, int]:
    """What begins there and where it ends; None where it is no JSON, or not all of the text where all is asked for."""
    try:
        value, end = decoder.raw_decode(text, place)
    except RecursionError as error:
        raise ParseError("JSON inside JSON without end") from error
    except ValueError:  # also a number of thousands of digits
        return None, place
    return (None, place) if whole and end != len(text) else (value, end)


def _key(answer: dict[str, Any]) -> str:
    return json.dumps(answer["score"])


def _number(value: Any, scale: Scale) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ParseError(f"{scale.name}: {str(value)[:40]!r} is no number")
    if isinstance(value, int) and abs(value) > 1e9:  # too long for a float
        raise ParseError(f"{scale.name}: a number far from the scale of {scale}")
    return _in_range(float(value), scale)


PARSERS: dict[str, Callable[[str, Sequence[Scale]], Parse]] = {"lines": lines, "any_lines": any_lines, "json": json_scores}
