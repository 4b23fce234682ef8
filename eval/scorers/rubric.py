"""A judge looks at a picture, an edit's beside its source, and gives scores on scales; a formula makes the value of them.

What is asked, on which scales and what the scores come to stands in the benchmark's file (rubric_spec). An answer that cannot be read is
asked for again; where none can be, the picture is unscored: it has no score, neither a low one nor a random one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.items import Item, Services, Unscored, Verdict
from metabridge.eval.judges import Judge, Request
from metabridge.eval.judges.asking import ask
from metabridge.eval.scorers import Judged, rubric_spec, rubric_text
from metabridge.eval.scorers.rubric_parse import Parse, Reading
from metabridge.eval.scorers.rubric_spec import Call, Spec
from metabridge.eval.scorers.rubric_text import Texts

PARSER = 1  # raise when the reading of answers changes
COMPAT = True


def calls(options: Mapping[str, Any], item: Item) -> int:
    return len(item.want.get("calls", options["calls"]))


def worst(options: Mapping[str, Any], item: Item) -> Mapping[str, float]:
    """The values of a picture that the model could not make: the lowest score on every scale."""
    return rubric_spec.read(options).worst(item)


def load(options: Mapping[str, Any], services: Services) -> Rubric:
    return Rubric(*parts(options, services))


def parts(options: Mapping[str, Any], services: Services) -> tuple[Spec, Judge, dict[str, Texts], dict[str, Parse], Path | None, str]:
    """What a Rubric is made of."""
    spec = rubric_spec.read(options)
    if services.judge is None:
        raise UserError("scoring: a judge is needed; name one with --judge URL#MODEL")
    parsers = {call.name: rubric_spec.parser_of(spec, call, services.compat) for call in spec.calls}
    return spec, services.judge, rubric_text.load(spec, services.data), parsers, services.data, services.compat


@dataclass(frozen=True)
class Rubric(Judged):
    spec: Spec
    judge: Judge
    texts: Mapping[str, Texts]
    parsers: Mapping[str, Parse]
    data: Path | None
    compat: str

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "variant": " ".join([str(self.judge.identity["id"]), *self._changed()]),
            "parser": PARSER,
            "compat": self.compat,
            "judge": dict(self.judge.identity),
            "decoding": dict(self.spec.decoding),
            "prompt_sha256": rubric_text.sha256(self.texts),
            "rubric": {
                "scales": {call.name: [asdict(scale) for scale in call.scales] for call in self.spec.calls},
                "values": self._formulas(),
            },
        }

    def _formulas(self) -> dict[str, str]:
        return {name: formula.text for name, formula in self.spec.formulas.items()}

    def _changed(self) -> list[str]:
        """Where this is not the official protocol: the judge is told something else, its answers are read as the official script does."""
        ours = any(isinstance(call.text, str) for call in self.spec.calls)
        told = f"template={rubric_text.sha256(self.texts)[:8]}" if self.spec.template else "template=ours" if ours else ""
        return [word for word in (told, "compat=official" if self.compat == "official" else "") if word]

    def score_one(self, item: Item, image: Image.Image) -> Verdict | Unscored:
        pictures = self._pictures(item, image)
        readings: dict[str, Reading] = {}
        answers = []
        for call in self._calls(item):
            try:
                asked = ask(
                    self.judge,
                    self._request(call, item, pictures),
                    self.parsers[call.name],
                    rubric_spec.attempts_of(self.spec, self.compat),
                )
            except Unscored as unscored:
                return unscored
            readings[call.name] = asked.value
            answers.append({"call": call.name, "asked": len(asked.texts), "scores": dict(asked.value.scores), "texts": list(asked.texts)})
        return self._made(readings, item, {"answers": answers})

    def _calls(self, item: Item) -> list[Call]:
        """All, or those that the reader chose for the item."""
        return [call for call in self.spec.calls if call.name in item.want.get("calls", self.texts)]

    def _request(self, call: Call, item: Item, pictures: Mapping[str, Image.Image]) -> Request:
        return Request(self.texts[call.name].messages(item, [pictures[name] for name in call.pictures]), **self.spec.decoding)

    def _pictures(self, item: Item, image: Image.Image) -> dict[str, Image.Image]:
        if not any("source" in call.pictures for call in self._calls(item)):
            return {"result": image}
        source = _source(item, self.data)
        if self.spec.resize and image.size != source.size:
            image = image.resize(source.size, Image.Resampling.BICUBIC)  # Pillow's own default, which the official script takes
        return {"source": source, "result": image}

    def _made(self, readings: Mapping[str, Reading], item: Item, detail: dict[str, Any]) -> Verdict:
        scores = {name: score for reading in readings.values() for name, score in reading.scores.items()}
        made = {name: value for reading in readings.values() for name, value in reading.values.items()}
        values = self.spec.values(scores, made, item)
        facets = {}
        if self.spec.facet and (name := item.want.get(self.spec.facet["by"])):
            facets = {str(name): (values[self.spec.facet["value"]], 1.0)}
        return Verdict(values, reason(self.spec, readings), detail, facets)


def _source(item: Item, data: Path | None) -> Image.Image:
    """The picture to be edited, as the judge is to see it."""
    path = (data or Path()) / str(item.want.get("source", item.images[0]))
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: the source of {item.id} cannot be read ({' '.join(str(error).split())}); mend it") from error


def reason(spec: Spec, readings: Mapping[str, Reading]) -> str:
    """What is not at its best, and the judge's own words for it."""
    words = []
    for call in (call for call in spec.calls if call.name in readings):
        scores = readings[call.name].scores
        for scale in call.scales:
            if not scale.low <= (score := scores.get(scale.name, scale.high)) <= scale.high:
                words.append(f"{scale.name.replace('_', ' ')} {score:g}, off its scale of {scale}")
            elif score < scale.high:
                words.append(f"{scale.name.replace('_', ' ')} {score:g} of {scale.high:g}")
    said = [reading.reason for reading in readings.values() if reading.reason]
    return "; ".join([", ".join(words), *said] if words else said)
