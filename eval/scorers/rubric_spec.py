"""A rubric as a benchmark's file tells it: what the judge is asked, on which scales, and what its scores come to.

parser: lines                       # lines | any_lines | json of rubric_parse, or a dotted module with load(name, scales) -> Parse
official: {parser: imgedit, attempts: 1}  # of rubric_official, for compat: official
attempts: 3                         # answers before a picture is unscored
decoding: {max_tokens: 512, temperature: 0, max_side: 768, extra: {}}
calls:
  - name: semantics
    pictures: [source, result]      # after the text, in this order
    scales: {success: [0, 10], overedit: [0, 10]}
    text: |                         # or {file: prompts.json, prompt: <edit_prompt>}: a text a group, from the data folder
      ... {prompt} ...
values: {semantics: "min(success, overedit)"}  # in order; each may use scores and the values above it
subsets: {intersection: {value: overall, where: intersection}}  # a ratio metric: `value` on the items whose `want` has `where`
facet: {by: subcategory, value: wiscore}
resize: source                      # the result is brought to the source's size before it is judged
template: PATH                      # a text of one's own in place of the call's; with several calls, a folder of NAME.txt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.modules import module_of
from metabridge.bridge.reading import kind_of, refuse_unknown
from metabridge.eval.items import Item
from metabridge.eval.scorers import rubric_formula, rubric_official, rubric_parse
from metabridge.eval.scorers.rubric_formula import Formula
from metabridge.eval.scorers.rubric_parse import Parse, Scale

_KEYS = ["parser", "official", "attempts", "decoding", "calls", "values", "subsets", "facet", "resize", "template"]
_DECODING: dict[str, Any] = {"max_tokens": 512, "temperature": 0.0, "max_side": None, "extra": {}}
PICTURES = ("source", "result")


@dataclass(frozen=True)
class Call:
    """One question about a picture."""

    name: str
    pictures: tuple[str, ...]
    scales: tuple[Scale, ...]
    text: str | Mapping[str, str]  # as given; a mapping names a file of the data folder


@dataclass(frozen=True)
class Spec:
    calls: tuple[Call, ...]
    formulas: Mapping[str, Formula]
    parser: str
    official: Mapping[str, Any]
    attempts: int
    decoding: Mapping[str, Any]
    subsets: Mapping[str, Mapping[str, str]]
    facet: Mapping[str, str]
    resize: bool
    template: str

    def values(self, scores: Mapping[str, float], made: Mapping[str, float], item: Item) -> dict[str, float]:
        """The scores, and what they come to; `made` are values that a parser itself gave."""
        values = {**scores, **made}
        for name, formula in self.formulas.items():
            if name not in made:
                values[name] = formula(values)
        for name, subset in self.subsets.items():
            inside = bool(item.want.get(subset["where"]))
            values |= {name: values[subset["value"]] if inside else 0.0, f"{name}.of": float(inside)}
        return values

    def worst(self, item: Item) -> dict[str, float]:
        return self.values({scale.name: scale.low for call in self.calls for scale in call.scales}, {}, item)


def read(options: Mapping[str, Any]) -> Spec:
    where = "scoring"
    refuse_unknown(options, _KEYS, where)
    calls = tuple(_call(tree, f"{where}.calls.{i}") for i, tree in enumerate(_given(options, "calls", list, where)))
    names = [scale.name for call in calls for scale in call.scales]
    if options.get("values") and (twice := next((name for i, name in enumerate(names) if name in names[:i]), None)):
        raise UserError(f"{where}.calls: scale {twice} a second time; give each a name of its own")
    formulas: dict[str, Formula] = {}
    for name, text in _mapping(options, "values", where).items():
        formulas[name] = rubric_formula.read(text, [*names, *formulas], f"{where}.values.{name}")
    decoding = {**_DECODING, **_mapping(options, "decoding", where)}
    refuse_unknown(decoding, list(_DECODING), f"{where}.decoding")
    made = [*names, *formulas]
    subsets = {
        name: _of_value(tree, "where", made, f"{where}.subsets.{name}") for name, tree in _mapping(options, "subsets", where).items()
    }
    if options.get("resize", "source") != "source":
        raise UserError(f"{where}.resize: {options['resize']!r} given; source is the only size to bring a result to")
    return Spec(
        calls=calls,
        formulas=formulas,
        parser=str(options.get("parser", "lines")),
        official=_mapping(options, "official", where),
        attempts=_attempts(options, where),
        decoding=decoding,
        subsets=subsets,
        facet=_of_value(options["facet"], "by", made, f"{where}.facet") if "facet" in options else {},
        resize="resize" in options,
        template=str(options.get("template") or ""),
    )


def _attempts(tree: Mapping[str, Any], where: str, default: int = 3) -> int:
    attempts = tree.get("attempts", default)
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
        raise UserError(f"{where}.attempts: {attempts!r} given; it is a whole number, 1 at least")
    return attempts


def _of_value(tree: Any, key: str, made: Sequence[str], where: str) -> dict[str, str]:
    """{value: one that is made, key: a key of an item's `want`}."""
    if not isinstance(tree, Mapping) or set(tree) != {"value", key}:
        raise UserError(f"{where}: {tree!r} given; it is a mapping of value and {key}")
    if tree["value"] not in made:
        raise UserError(f"{where}.value: {unknown(str(tree['value']), made, 'value')}")
    return {name: str(value) for name, value in tree.items()}


def _call(tree: Any, where: str) -> Call:
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: {kind_of(tree)} given; it is a mapping of name, pictures, scales and text")
    refuse_unknown(tree, ["name", "pictures", "scales", "text"], where)
    pictures = tuple(_given(tree, "pictures", list, where))
    for picture in pictures:
        if picture not in PICTURES:
            raise UserError(f"{where}.pictures: {unknown(str(picture), PICTURES, 'picture')}")
    scales = []
    for name, ends in _given(tree, "scales", Mapping, where).items():
        if not isinstance(ends, list) or [type(end) in (int, float) for end in ends] != [True, True] or not ends[0] < ends[1]:
            raise UserError(f"{where}.scales.{name}: {ends!r} given; it is the lowest and the highest score, as [0, 2]")
        scales.append(Scale(name, *map(float, ends)))
    text = _given(tree, "text", (str, Mapping), where)
    if isinstance(text, Mapping) and (set(text) != {"file", "prompt"} or not all(isinstance(word, str) for word in text.values())):
        raise UserError(f"{where}.text: {dict(text)!r} given; it is text, or a mapping of file and prompt")
    return Call(_given(tree, "name", str, where), pictures, tuple(scales), text)


def _given(tree: Mapping[str, Any], key: str, kind: Any, where: str) -> Any:
    if not isinstance(value := tree.get(key), kind) or not value:
        raise UserError(f"{where}.{key}: {kind_of(value or None)} given; {__name__} shows how it is written")
    return value


def _mapping(tree: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    if not isinstance(value := tree.get(key) or {}, Mapping):
        raise UserError(f"{where}.{key}: {kind_of(value)} given; it is a mapping")
    return dict(value)


def parser_of(spec: Spec, call: Call, compat: str) -> Parse:
    """How this call's answers are read: our way, or as the official script does."""
    if compat == "official":
        known = rubric_official.PARSERS
        if (name := spec.official.get("parser")) not in known:
            raise UserError(f"scoring.official.parser: {unknown(str(name), known, 'official parser')}; without one, leave compat at none")
        return known[name](call.name, call.scales)
    if spec.parser in rubric_parse.PARSERS:
        return rubric_parse.PARSERS[spec.parser](call.name, call.scales)
    module = module_of("metabridge.eval.scorers", spec.parser, rubric_parse.PARSERS, "parser", "scoring.parser", "a function of an answer")
    parse: Parse = module.load(call.name, call.scales)
    return parse


def attempts_of(spec: Spec, compat: str) -> int:
    return _attempts(spec.official, "scoring.official", spec.attempts) if compat == "official" else spec.attempts
