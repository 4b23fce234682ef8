"""A benchmark's file of odd form ends in one line that says where and why, whatever is odd about it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks, plan
from metabridge.eval.items import Item, Services
from metabridge.eval.result import group
from metabridge.eval.score import Scored
from tests.eval import small_benchmark
from tests.eval.oracle import BRIDGE, CODE, GENERATION
from tests.eval.scripted_judge import ScriptedJudge

FILE = {"name": "a.jsonl", "repo": "some/body", "commit": "0" * 40, "path": "a.jsonl", "sha256": "0" * 64, "bytes": 3}
WHOLE: dict[str, Any] = {
    "title": "small",
    "task": "t2i",
    "version": 1,
    "prompt_set": "raw",
    "prompts": {"reader": "tests.eval.small_benchmark", "count": 4, "same": False},
    "groups": {"animals": "animals", "plants": "plants"},
    "parts": {
        "one": {"groups": ["animals"], "rows": ["bridge", "think"], "chance": {"animals": 0.5}, "title": "One"},
        "two": {"groups": ["plants"]},
    },
    "images": 2,
    "seed": {"official": 42},
    "data": {"folder": "small", "licence": "MIT", "accept": False, "files": [FILE]},
    "scoring": {"scorer": "questions", "wording": "question", "max_tokens": 64},
    "judge": {"needed": True, "official": "a", "calls": 8, "note": "n"},
    "models": {"clip": "some/clip"},
    "metrics": [
        {"name": "score", "within": "ratio", "high": 100, "digits": 1},
        {"name": "animals", "of": "score", "within": "ratio", "weights": {"animals": 1, "plants": 0}, "high": None, "better": "lower"},
    ],
    "layout": "corebench",
    "facets": "by kind",
    "badge": "variant",
    "badge_note": "why",
    "published": [{"name": "A", "metric": "score", "value": 0.5, "variant": "official", "source": "somewhere"}],
    "notes": ["one"],
}


def put(*path: str | int, value: Any) -> Callable[[Any], Any]:
    """The tree with another value at a place."""

    def change(tree: Any) -> Any:
        if not path:
            return value
        node = tree
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        return tree

    return change


def without(*path: str) -> Callable[[Any], Any]:
    def change(tree: Any) -> Any:
        node = tree
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]
        return tree

    return change


def load(tree: Any, folder: Path) -> benchmarks.Benchmark:
    (folder / "own.yaml").write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return benchmarks.load(str(folder / "own.yaml"))


ODD = [
    (put(value=[]), ": a list given; it is a mapping of title, task, prompts, images, scoring, metrics, version, prompt_set, groups, "),
    (put(value=None), ": nothing given; it is a mapping of title, "),
    (put(value="title: [\n"), ": no valid YAML: while parsing a flow node "),
    (put(value="title: 2024-13-45\n"), ": no valid YAML: month must be in 1..12"),
    (without("title"), ".title: missing"),
    (put("titel", value="x"), ".titel: no such setting; did you mean title? it may be one of: badge, "),
    (put("title", value=42), ".title: 42 given; it is text, in quotes"),
    (put("title", value=""), ".title: nothing given; it is text, in quotes"),
    (put("task", value="t2l"), ".task: t2l: no such value; did you mean t2i? it may be one of: edit, subject, t2i"),
    (without("prompts", "count"), ".prompts.count: missing"),
    (without("prompts", "reader"), ".prompts.reader: missing"),
    (put("prompts", value=["geneval"]), ".prompts: a list given; it is a mapping"),
    (put("prompts", "count", value="4"), ".prompts.count: text given; it is a whole number"),
    (put("prompts", "count", value=0), ".prompts.count: 0 given; it is 1 at least"),
    (
        put("prompts", "reader", value="genevl"),
        ".prompts.reader: genevl: no such reader; did you mean geneval? it may be one of: captions, ",
    ),
    (put("prompts", "reader", value="..up"), ".prompts.reader: '..up' is no name of a module; write it as package.module"),
    (put("prompts", "file", value={1: "x"}), ".prompts.file: 1 given as a name; a name is text, in quotes, of signs that can be printed"),
    (put("scoring", value="geneval"), ".scoring: text given; it is a mapping"),
    (without("scoring", "scorer"), ".scoring.scorer: missing"),
    (
        put("scoring", "scorer", value="rubric_parse"),
        ".scoring.scorer: rubric_parse: no such scorer; did you mean rubric? it may be one of: distribution, embedding, flatland, geneval, "
        "ocr, questions, rise, rubric, scene_edits, soft_tifa",
    ),
    (put("scoring", "max_tokens", value=float("nan")), ".scoring.max_tokens: nan given; it is a number"),
    (put("images", value=0), ".images: 0 given; it is 1 at least"),
    (put("images", value=True), ".images: True given; it is a whole number"),
    (put("images", value=2.5), ".images: 2.5 given; it is a whole number"),
    (put("seed", value=42), ".seed: a number given; it is a mapping of official"),
    (put("seed", value={}), ".seed.official: missing"),
    (put("groups", value=["animals"]), ".groups: a list given; it is a mapping"),
    (put("groups", value={False: "no"}), ".groups: False given as a name; a name is text, in quotes, of signs that can be printed"),
    (put("groups", "fish", value="fish"), ".parts: group fish is in none; name it in one part"),
    (
        put("groups", "overall", value="x"),
        ".groups: 'overall' is no name for a group; it names a folder of pictures and a row beside `overall`",
    ),
    (put("parts", value=["one"]), ".parts: a list given; it is a mapping"),
    (put("parts", "one", "groups", value="animals"), ".parts.one.groups: text given; it is a list"),
    (put("parts", "one", "groups", value=["animal"]), ".parts.one.groups: animal: no such group; did you mean animals? it may be one of: "),
    (put("parts", "one", "groups", value=["animals", "plants"]), ".parts: group plants is there 2 times; name it once, in one part"),
    (without("parts", "one", "groups"), ".parts.one.groups: none named; of several parts, each names its own"),
    (
        put("parts", "one", "rows", value=["thinks"]),
        ".parts.one.rows: thinks: no such value; did you mean think? it may be one of: bridge, ",
    ),
    (put("parts", "one", "chance", value={"animal": 0.5}), ".parts.one.chance: animal: no such group; did you mean animals? "),
    (put("metrics", value=[]), ".metrics: none given; it has one at least, and the first is the headline"),
    (put("metrics", value={"name": "score"}), ".metrics: a mapping given; it is a list"),
    (
        put("metrics", 0, value="score"),
        ".metrics.0: text given; it is a mapping of name, title, note, of, within, weights, low, high, digits, ",
    ),
    (put("metrics", 0, "nmae", value="x"), ".metrics.0.nmae: no such setting; did you mean name? it may be one of: better, "),
    (put("metrics", 1, "name", value="score"), ".metrics.1.name: 'score' is there a second time; give each metric its own name"),
    (put("metrics", 0, "within", value="max"), ".metrics.0.within: max: no such value; it may be one of: any, mean, ratio, set"),
    (put("metrics", 0, "high", value=0), ".metrics.0.high: 0 given; it is above low, 0"),
    (put("metrics", 0, "digits", value=99), ".metrics.0.digits: 99 given; it is 10 at most"),
    (
        put("metrics", 0, "weights", value="eqal"),
        ".metrics.0.weights: eqal: no such value; did you mean equal? it may be one of: equal, prompts",
    ),
    (put("metrics", 1, "weights", value={"animals": 0.4, "plants": 0.4}), ".metrics.1.weights: 0.8 in sum; it is 1"),
    (put("metrics", 1, "weights", value={"animals": 2, "plants": -1}), ".metrics.1.weights.plants: -1 given; it is 0 at least"),
    (put("metrics", 1, "weights", value={"animals": 1}), ".metrics.1.weights: none for plants; give one for each group"),
    (put("metrics", 1, "weights", "plant", value=0), ".metrics.1.weights: plant: no such group; did you mean plants? it may be one of: "),
    (put("metrics", 1, "weights", value=[1, 0]), ".metrics.1.weights: a list given; it is text, in quotes"),
    (
        put("layout", value="corebnch"),
        ".layout: corebnch: no such layout; did you mean corebench? it may be one of: corebench, dpg, gedit, ",
    ),
    (put("judge", value="gpt-4o"), ".judge: text given; it is a mapping of needed, official, recommended, calls, note"),
    (put("judge", "needed", value="yes please"), ".judge.needed: text given; it is true or false"),
    (put("data", value="small"), ".data: text given; it is a mapping of folder, licence, accept, url, files, by_hand"),
    (put("data", "folder", value=3), ".data.folder: 3 given; it is text, in quotes"),
    (put("data", "files", 0, "commit", value=1234567), ".data.files.0.commit: 1234567 given; it is text, in quotes"),
    (put("models", value=["clip"]), ".models: a list given; it is a mapping"),
    (put("badge", value="exakt"), ".badge: exakt: no such value; did you mean exact? it may be one of: exact, unverified, variant"),
    (put("published", 0, "value", value="0.87"), ".published.0.value: text given; it is a number"),
    (put("published", 0, "metric", value="scor"), ".published.0.metric: scor: no such metric; did you mean score? it may be one of: "),
    (put("notes", value="one"), ".notes: text given; it is a list"),
    (put("notes", value=None), ".notes: nothing given; it is a list"),
]


def test_the_whole_one_is_read(tmp_path: Path) -> None:
    own = load(WHOLE, tmp_path)
    assert (own.count, own.images, own.official_seed, own.reader_options) == (4, 2, 42, {"same": False})
    assert own.scorer_options == {"wording": "question", "max_tokens": 64}
    assert own.parts["one"].rows == ("bridge", "think") and own.metrics[1].weights == {"animals": 1, "plants": 0}
    assert own.data is not None and own.data.files[0].bytes == 3 and own.judge is not None and own.judge.calls == 8


@pytest.mark.parametrize(("change", "says"), ODD, ids=[says.partition(";")[0].strip(".: ") for _, says in ODD])
def test_odd_files_are_one_line(change: Callable[[Any], Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(change(copy.deepcopy(WHOLE)), tmp_path)
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'own.yaml'}{says}") and "\n" not in said
    assert says.endswith((", ", "? ", ": ", " ")) or said == f"{tmp_path / 'own.yaml'}{says}"


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"own\.yaml: cannot be read \('utf-8' codec can't decode .*\); give a benchmark's YAML file$"):
        benchmarks.load(str(tmp_path / "own.yaml"))


def test_a_list_that_holds_itself(tmp_path: Path) -> None:
    text = yaml.safe_dump(WHOLE).replace("wording: question", "wording: &a [*a]")
    with pytest.raises(UserError, match=r"own: more than 20 levels below each other; write it flatter$"):
        load(text, tmp_path)


def test_without_groups_they_are_as_they_come(tmp_path: Path) -> None:
    """One part of whatever the reader gives; each group has its cell, and no weight is asked for."""
    tree = small_benchmark.tree()
    del tree["groups"]
    own = load(tree, tmp_path)
    made = plan.make(own, BRIDGE, GENERATION, CODE, rows=["bridge"])
    assert [item.group for item in made.items] == ["animals", "animals", "plants", "plants"]
    assert len(made.samples()) == 8 and own.part_of("plants") == "score" and own.title_of("plants") == "plants"
    scored = [Scored(s, "ok", {"correct": float(s.item.group == "plants")}, "", None) for s in made.samples()]
    assert {name: cell["value"] for name, cell in group(scored, own.metrics[0], own, {}).items()} == {
        "overall": 0.5,
        "animals": 0,
        "plants": 1,
    }


@pytest.mark.parametrize("name", ["..", "", "a/b", ".hidden", "a\\b"])
def test_a_group_of_a_reader_is_a_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = small_benchmark.small()
    monkeypatch.setattr(small_benchmark, "load", lambda options, data: [Item(0, "x", name, "t", {})])
    with pytest.raises(UserError, match=r"is no name for a picture's file; mend its reader$"):
        own.items(None)


def test_a_reader_that_gives_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    own = small_benchmark.small()
    monkeypatch.setattr(small_benchmark, "load", lambda options, data: {"a": 1})
    with pytest.raises(UserError, match=r"^small: its reader gives a mapping; it is a list of Items$"):
        own.items(None)


@pytest.mark.parametrize("kind", ["reader", "scorer"])
def test_what_is_listed_has_load_and_what_is_not_has_none(kind: str) -> None:
    """Modules that belong to another one alone are told by their names."""
    import importlib

    from metabridge.bridge.modules import names_in

    package = f"metabridge.eval.{kind}s"
    for name in names_in(package):
        module = importlib.import_module(f"{package}.{name}")
        assert (hasattr(module, "load") and "options" in module.load.__annotations__) == (name in benchmarks.modules(kind)), name


@pytest.mark.parametrize(
    ("name", "at", "value", "says"),
    [
        ("geneval", "reader_options", {"file": 3}, "prompts.file: 3 given; it is text, in quotes"),
        ("geneval", "scorer_options", {"detector": None}, "scoring.detector: nothing given; it is text, in quotes"),
        ("geneval", "scorer_options", {"rules": []}, "scoring.rules: a list given; it is a mapping"),
        ("imgedit", "reader_options", {"fiel": "a"}, "prompts.fiel: no such setting; did you mean file? it may be one of: file, pictures"),
        ("rise", "reader_options", {"file": ["a"]}, "prompts.file: a list given; it is text, in quotes"),
        ("wise", "reader_options", {"files": "a.json"}, "prompts.files: text given; it is a list"),
        ("wise", "reader_options", {"files": [1], "ids": {}}, "prompts.files: [1] given; it is a list of file names"),
        (
            "wise",
            "reader_options",
            {"files": ["a"], "ids": {"time": [1]}},
            "prompts.ids.time: [1] given; it is the first and the last id of one of: culture, time, space, biology, physics, chemistry",
        ),
        ("longtext_en", "reader_options", {"language": []}, "prompts.language: a list given; it is text, in quotes"),
        ("gedit_en", "reader_options", {"language": 1}, "prompts.language: 1 given; it is text, in quotes"),
        ("mjhq_fid", "reader_options", {"format": {}}, "prompts.format: a mapping given; it is text, in quotes"),
        ("longtext_en", "scorer_options", {"template": []}, "scoring.template: a list given; it is text, in quotes"),
        ("coco_fid", "scorer_options", {"whole": 3}, "scoring.whole: a number given; it is a mapping"),
    ],
)
def test_odd_options_are_one_line(name: str, at: str, value: dict[str, Any], says: str, tmp_path: Path) -> None:
    own = replace(benchmarks.load(name), **{at: value})  # type: ignore[arg-type]
    (tmp_path / "object_names.txt").write_text("cat\n")
    with pytest.raises(UserError) as error:
        if at == "reader_options":
            own.items(tmp_path)
        else:
            own.scorer_module().load(value, Services(tmp_path, ScriptedJudge({})))
    assert str(error.value) == says


def places(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*path, key))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.dates(), st.binary(max_size=3),
    st.sampled_from([10**400, "..", "a.b", "~", "set", "equal", "bridge", "animals", "/", "\0", "overall"]),
)  # fmt: skip
NODES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forms")


@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(list(places(WHOLE))), node=NODES)
@example(path=("metrics", 0, "weights"), node={"animals": 1e308, "plants": 1e308})
@example(path=("scoring", "scorer"), node="a.")
@example(path=(), node={"\n": None})
@example(path=("parts", "one", "groups"), node=["\n", "\n"])
def test_any_other_node_is_taken_or_refused(path: tuple[str | int, ...], node: Any, folder: Path) -> None:
    try:
        own = load(put(*path, value=node)(copy.deepcopy(WHOLE)), folder)
        made = plan.make(own, BRIDGE, GENERATION, CODE)
        made.samples()
        own.layout_module()
        own.scorer_module().load(own.scorer_options, Services(None, ScriptedJudge({})))
    except UserError as error:
        assert "\n" not in str(error)
