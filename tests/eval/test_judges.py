"""Words that name a judge, what is asked again, what is kept, and what is recorded can be played again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.eval.items import Unscored
from metabridge.eval.judged import judged
from metabridge.eval.judges import Judge, JudgeError, Message, Request, canary, load, words
from metabridge.eval.judges.answers import Answer
from metabridge.eval.judges.asking import ParseError, Unparsed, ask
from metabridge.eval.judges.brain import Brain
from metabridge.eval.judges.cache import Recorded, key_of
from metabridge.eval.judges.canary import CANARIES, Canary, yes_or_no
from metabridge.eval.subjects.bridge import BridgeSubject
from metabridge.scripts.eval_run import judge_brain
from tests.eval.judge_server import MODEL, JudgeServer, Reply, Seen, says


@dataclass
class Scripted:
    """A judge that says its lines in turn, the last one for ever; an error among them is raised."""

    lines: list[str | Exception]
    identity: Mapping[str, Any] = field(default_factory=lambda: {"id": "scripted", "revision": "1", "host": None, "kind": "test"})
    concurrency: int = 4
    asked: list[tuple[Request, int]] = field(default_factory=list)

    def ask(self, request: Request, attempt: int = 0) -> str:
        self.asked.append((request, attempt))
        line = self.lines[min(len(self.asked), len(self.lines)) - 1]
        if isinstance(line, Exception):
            raise line
        return line


def question(text: str = "How many?", color: str = "red", **settings: Any) -> Request:
    return Request((Message("user", (Image.new("RGB", (4, 4), color), text)),), **settings)


def number(text: str) -> int:
    if not text.isdigit():
        raise ParseError("it is no number")
    return int(text)


# words


@pytest.mark.parametrize(
    ("word", "kind", "place", "name"),
    [
        ("http://127.0.0.1:8000/v1#Qwen/Qwen3.5-9B", "endpoint", "http://127.0.0.1:8000/v1", "Qwen/Qwen3.5-9B"),
        ("https://a.example/v1?api-version=2#@cf/meta/x", "endpoint", "https://a.example/v1?api-version=2", "@cf/meta/x"),
        ("local:Qwen/Qwen3.5-9B", "local", "Qwen/Qwen3.5-9B", ""),
        ("local:Qwen/Qwen3.5-9B@main", "local", "Qwen/Qwen3.5-9B", "main"),
        ("brain", "brain", "", ""),
        ("replay:a/judge.jsonl", "replay", "a/judge.jsonl", ""),
        ("replay:a/judge.jsonl#gpt-4o", "replay", "a/judge.jsonl", "gpt-4o"),
    ],
)
def test_words(word: str, kind: str, place: str, name: str) -> None:
    assert words.parse(word) == words.Word(kind, place, name)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "a@b").mkdir()
    assert words.parse(f"local:{tmp_path}/a@b") == words.Word("local", f"{tmp_path}/a@b")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("gpt-4o", "judge 'gpt-4o': no such kind of judge; write URL#MODEL (as http://127.0.0.1:8000/v1#Qwen/Qwen3.5-9B), local:REPO_OR_"),
        ("", "judge '': no such kind of judge"),
        ("brian", "judge 'brian': no such kind of judge"),
        ("local:", "judge 'local:': no such kind of judge"),
        ("ftp://a/b#c", "judge 'ftp://a/b#c': no such kind of judge"),
        ("http://#m", "judge 'http://#m': an address has a host and no blanks"),
        ("http://a b/v1#m", "judge 'http://a b/v1#m': an address has a host and no blanks"),
        ("http://127.0.0.1:8000/v1", "judge at 127.0.0.1:8000: says no model; write URL#MODEL, as 127.0.0.1:8000/v1#Qwen/Qwen3.5-9B"),
        ("http://a..b/v1#m", "judge 'http://a..b/v1#m': no address"),
        ("http://a\x7f/v1#m", "judge 'http://a\\x7f/v1#m': an address has a host and no blanks"),
        ("http://[::1/v1#m", "judge 'http://[::1/v1#m': no address"),
        ("http://a:99999/v1#m", "judge 'http://a:99999/v1#m': no address"),
        ("https://me:hunter2@a.example/v1#m", "judge at a.example: a name or password stands in the address"),
        ("https://hunter2@a.example/v1#m", "judge at a.example: a name or password stands in the address"),
        ("https://a.example/v1?key=hunter2#m", "judge at a.example: the address has ?key=, which may be a secret"),
        ("https://a.example/v1?x&API_KEY=hunter2", "judge at a.example: the address has ?API_KEY=, which may be a secret"),
        ("https://me:hunt/er2@a.example/v1#m", "judge '...@a.example/v1#m': no address"),
        ("me:hunter2@a.example/v1#m", "judge '...@a.example/v1#m': no such kind of judge"),
        ("a.example/v1?key=hunter2#m", "judge 'a.example/v1?...#m': no such kind of judge"),
    ],
)
def test_wrong_words_are_answered_in_one_line_without_secrets(word: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(word, folder=tmp_path)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert not re.search("hunt|er2", str(caught.value))


@pytest.mark.parametrize(
    ("setting", "line"), [({"concurrency": 0}, "concurrency 0"), ({"timeout": 0.0}, "timeout"), ({"max_calls": -1}, "max-judge")]
)
def test_wrong_settings(setting: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"judge: {line}"):
        load("http://127.0.0.1:1/v1#m", folder=tmp_path, **setting)


def test_a_brain_needs_a_bridge(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no bridge here; name another judge"):
        load("brain", folder=tmp_path)


def test_words_are_read_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys; from metabridge.eval.judges import asking, canary, load, words; from pathlib import Path\n"
        "try: load('nonsense', folder=Path('.'))\nexcept ValueError: pass\n"
        "print(sorted({'torch', 'httpx', 'tenacity', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# asking


def test_asks_the_same_twice_and_then_says_what_was_wrong() -> None:
    judge = Scripted(["many", "some", "3"])
    asked = ask(judge, question(max_tokens=9), number)
    assert (asked.value, asked.texts) == (3, ("many", "some", "3"))
    first, second, third = judge.asked
    assert (first[1], second[1], third[1]) == (0, 1, 2)
    assert first[0] == second[0] == question(max_tokens=9)
    assert third[0].messages[:1] == first[0].messages
    assert third[0].max_tokens == 9
    assert third[0].messages[1] == Message("assistant", ("some",))
    assert third[0].messages[2].role == "user"
    assert "could not be read: it is no number." in str(third[0].messages[2].content[0])


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_gives_up_after_so_many_attempts(attempts: int) -> None:
    judge = Scripted(["lots\n" * 99])
    with pytest.raises(
        Unparsed, match=rf"no answer of {attempts} could be read: it is no number; the last one: 'lots lots .*'\.\.\."
    ) as caught:
        ask(judge, question(), number, attempts=attempts)
    assert caught.value.texts == ("lots\n" * 99,) * attempts
    assert len(str(caught.value)) < 300
    assert [len(request.messages) for request, _ in judge.asked] == [1] * (attempts - 1) + [1 if attempts == 1 else 3]


def test_no_answer_is_unscored_and_not_asked_again() -> None:
    judge = Scripted(["many", JudgeError("timeout")])
    with pytest.raises(Unscored, match="the judge gave no answer: timeout"):
        ask(judge, question(), number)
    assert len(judge.asked) == 2


def test_an_error_of_ones_own_is_no_bad_answer() -> None:
    with pytest.raises(ZeroDivisionError):
        ask(Scripted(["3"]), question(), lambda text: 1 // 0)


# the transcript


def test_every_part_of_a_question_makes_it_another_one() -> None:
    identity = {"id": "a", "revision": "1"}
    plain = question()
    others = [
        (question("How much?"), 0, identity),
        (question(color="blue"), 0, identity),
        (replace(plain, messages=(Message("system", plain.messages[0].content),)), 0, identity),
        (replace(plain, messages=(Message("user", plain.messages[0].content[::-1]),)), 0, identity),
        (replace(plain, messages=(*plain.messages, Message("user", ("",)))), 0, identity),
        (question(max_tokens=1), 0, identity),
        (question(temperature=0.1), 0, identity),
        (question(max_side=2), 0, identity),
        (question(extra={"top_p": 0.5}), 0, identity),
        (plain, 1, identity),
        (plain, 0, {"id": "b", "revision": "1"}),
        (plain, 0, {"id": "a", "revision": "2"}),
        (plain, 0, {"id": "a", "revision": "1", "host": "elsewhere"}),
    ]
    keys = {key_of(*other) for other in others} | {key_of(plain, 0, identity)}
    assert len(keys) == len(others) + 1
    wide, high = (Image.new("RGB", size) for size in ((8, 2), (2, 8)))  # the same bytes
    assert len({key_of(Request((Message("user", (image,)),)), 0, identity) for image in (wide, high)}) == 2
    assert key_of(plain, 0, {**identity, "host": None, "kind": "replay"}) == key_of(question(temperature=0), 0, identity)


def test_a_picture_is_its_pixels(tmp_path: Path) -> None:
    image = Image.new("RGB", (5, 3), "green")
    image.save(tmp_path / "a.png", compress_level=0)
    again = Image.open(tmp_path / "a.png")
    identity = {"id": "a", "revision": None}
    assert key_of(Request((Message("user", (image,)),)), 0, identity) == key_of(Request((Message("user", (again,)),)), 0, identity)


def test_answers_are_kept_and_replayed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "judge.jsonl"
    inner = Scripted([Answer("nonsense", "scripted-1", {"prompt_tokens": 5}), "17", JudgeError("away")])
    judge = Recorded(inner, path)
    assert ask(judge, question(), number).texts == ("nonsense", "17")
    with pytest.raises(Unscored):
        ask(judge, question("Another?"), number)
    assert ask(judge, question(), number).texts == ("nonsense", "17")
    assert len(inner.asked) == 3
    first, second = (json.loads(line) for line in path.read_text().splitlines())  # an error is not kept
    assert first.pop("seconds") >= 0
    assert first == {
        "key": key_of(question(), 0, inner.identity),
        "judge": "scripted",
        "revision": "1",
        "text": "nonsense",
        "model": "scripted-1",
        "usage": {"prompt_tokens": 5},
    }
    assert (second["text"], second["model"]) == ("17", None)

    replay = load(f"replay:{path}", folder=tmp_path)
    assert ask(replay, question(), number).texts == ("nonsense", "17")
    assert (replay.identity["id"], replay.identity["revision"], replay.identity["kind"]) == ("scripted", "1", "replay")
    with pytest.raises(Unscored, match=r"replay: judge.jsonl has no answer to this question \(attempt 0\)"):
        ask(replay, question(color="blue"), number)


def test_texts_come_back_to_the_letter(tmp_path: Path) -> None:
    texts = ['{"score": 1}\n', "Score：2 – “yes”\u2028\x85\ud7ff", "\t\\ \x00", "🟥" * 3]
    judge = Recorded(Scripted(list(texts)), tmp_path / "judge.jsonl")
    questions = [question(str(place)) for place in range(len(texts))]
    assert [judge.ask(q) for q in questions] == texts
    assert [load(f"replay:{judge.path}", folder=tmp_path).ask(q) for q in questions] == texts


def test_a_torn_last_line_is_asked_again_and_a_broken_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judge.jsonl"
    judge = Recorded(Scripted(["1", "2"]), path)
    judge.ask(question("a"))
    judge.ask(question("b"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    inner = Scripted(["2"])
    again = Recorded(inner, path)
    assert (again.ask(question("a")), again.ask(question("b")), len(inner.asked)) == ("1", "2", 1)
    assert len(path.read_text().splitlines()) == 2
    path.write_text('{"key": "k", "judge": "scripted"}\n')
    with pytest.raises(UserError, match=r"judge.jsonl: line 1 is no answer of a judge; remove the line"):
        Recorded(inner, path)


def test_judges_in_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "judge.jsonl"
    for name, revision, text in (("a", None, "1"), ("b", "1", "2"), ("b", "2", "3")):
        judge = Recorded(Scripted([text], {"id": name, "revision": revision}), path)
        assert judge.ask(question()) == text
        with pytest.raises(UserError, match=r"no answers of c in it") as caught:
            load(f"replay:{path}#c", folder=tmp_path)
    with pytest.raises(UserError, match=r"has answers of a, b@1, b@2; name one, as replay:FILE#a") as caught:
        load(f"replay:{path}", folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert [load(f"replay:{path}#{name}", folder=tmp_path).ask(question()) for name in ("a", "b@1", "b@2")] == ["1", "2", "3"]
    with pytest.raises(UserError, match=r"no such file; give the judge.jsonl of a scored run"):
        load(f"replay:{path}.gone", folder=tmp_path)


def test_a_second_server_is_asked_itself(tmp_path: Path) -> None:
    """It may hold another model of the same name; a replay says whose answers it gives."""
    path = tmp_path / "judge.jsonl"
    with JudgeServer(says("one")) as first, JudgeServer(says("two")) as second:
        hosts = [server.root.removeprefix("http://") for server in (first, second)]
        for server, text in [(first, "one"), (second, "two"), (first, "one"), (second, "two")]:
            assert load(server.word, folder=tmp_path).ask(question()) == text
        assert (len(first.seen), len(second.seen)) == (1, 1)
    assert [json.loads(line)["host"] for line in path.read_text().splitlines()] == hosts
    one, two = (f"{MODEL}@{host}" for host in hosts)
    with pytest.raises(UserError) as caught:
        load(f"replay:{path}#{MODEL}", folder=tmp_path)
    assert f"has answers of {', '.join(sorted((one, two)))}; name one, as replay:FILE#{min(one, two)}" in str(caught.value)
    assert [load(f"replay:{path}#{name}", folder=tmp_path).ask(question()) for name in (one, two)] == ["one", "two"]


def test_a_transcript_from_before_hosts_were_kept_is_replayed(tmp_path: Path) -> None:
    identity = {"id": MODEL, "revision": None}
    line = {"key": key_of(question(), 0, identity), "judge": MODEL, "revision": None, "text": "old", "model": f"{MODEL}-2024-05-13"}
    path = tmp_path / "judge.jsonl"
    path.write_text(json.dumps(line) + "\n")
    assert load(f"replay:{path}", folder=tmp_path).ask(question()) == "old"
    with JudgeServer(says("new")) as server:
        assert load(server.word, folder=tmp_path).ask(question()) == "new"  # whose answer the old one is, nobody knows
        assert load(f"replay:{path}#{MODEL}", folder=tmp_path).ask(question()) == "old"
        host = server.root.removeprefix("http://")
        assert load(f"replay:{path}#{MODEL}@{host}", folder=tmp_path).ask(question()) == "new"


def test_who_answered_is_told(tmp_path: Path) -> None:
    """Two processes may begin at the same moment, each with another version of the model."""
    path = tmp_path / "judge.jsonl"
    first = Recorded(Scripted([Answer("1", "gpt-4o-2024-05-13")]), path)
    second = Recorded(Scripted([Answer("2", "gpt-4o-2024-08-06")]), path)
    assert judged([], first)["questions"] == 0 and "answered_as" not in judged([], Recorded(Scripted(["yes"]), tmp_path / "other.jsonl"))
    first.ask(question("a"))
    second.ask(question("b"))
    for judge in (first, second, load(f"replay:{path}", folder=tmp_path)):
        found = judged([], judge)
        assert found["answered_as"] == ["gpt-4o-2024-05-13", "gpt-4o-2024-08-06"]
        assert found["warnings"][0] == "The judge answered as gpt-4o-2024-05-13, gpt-4o-2024-08-06: the scores of several models are mixed."


def test_the_same_question_of_many_threads_is_asked_once(tmp_path: Path) -> None:
    with JudgeServer(lambda seen: says(seen.text, delay=0.05)) as server:
        judge = load(server.word, folder=tmp_path, concurrency=8)
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(judge.ask, [question(str(place % 4)) for place in range(16)]))
        assert answers == [str(place % 4) for place in range(16)]
        assert len(server.seen) == 4
    assert len((tmp_path / "judge.jsonl").read_text().splitlines()) == 4


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"judge.jsonl: cannot be written \(.*\); make room there"):
        Recorded(Scripted(["1"]), tmp_path / "file" / "judge.jsonl").ask(question())


# the brain


def brain(say: str = "yes", **settings: Any) -> tuple[Judge, list[tuple[str, list[Image.Image], int]]]:
    heard: list[tuple[str, list[Image.Image], int]] = []

    def answer(text: str, images: list[Image.Image], max_new_tokens: int) -> str:
        heard.append((text, images, max_new_tokens))
        return say

    return load("brain", answer=answer, identity={"id": "flatland", "fingerprint": "f" * 8}, **settings), heard


def test_the_brain_is_asked_in_one_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    judge, heard = brain(" <think>hm</think> two ", folder=tmp_path)
    picture = Image.new("RGB", (8, 4))
    messages = (Message("system", ("Count.",)), Message("user", ("Look:", picture, "How many?")))
    with pytest.raises(Unparsed):
        ask(judge, Request(messages, max_tokens=77, max_side=4, extra={"top_p": 1}), number)
    assert [(text, most) for text, _, most in heard][:2] == [("Count.\n\nLook:\nHow many?", 77)] * 2
    assert heard[2][0].startswith("Count.\n\nLook:\nHow many?\n\nYour answer was:\ntwo\n\nThat answer could not be read: it is no number.")
    assert [image.size for image in heard[2][1]] == [(4, 2)]
    assert judge.identity == {"kind": "brain", "id": "flatland", "revision": "f" * 8, "host": None}
    assert [record.getMessage() for record in caplog.records] == ["judge brain: top_p of the request has no effect on it"]


@pytest.mark.parametrize(("repo", "name"), [("Qwen/Qwen3-VL-4B", "Qwen/Qwen3-VL-4B"), ("package:tiny", "package:tiny"), (".", "my-brain")])
def test_a_brain_is_named_without_its_place(repo: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret" / "my-brain").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "secret" / "my-brain")
    for given in [repo] if repo != "." else [".", str(tmp_path / "secret" / "my-brain")]:
        brain = Brain(lambda text, images, most: "1", {"id": given, "revision": "main", "fingerprint": "ab" * 32})
        assert brain.identity == {"kind": "brain", "id": name, "revision": "ab" * 8, "host": None}
        Recorded(brain, tmp_path / "judge.jsonl").ask(question())
    assert "secret" not in (tmp_path / "judge.jsonl").read_text()


def test_the_brain_has_a_budget_and_no_temperature(tmp_path: Path) -> None:
    judge, heard = brain(folder=tmp_path, max_calls=1)
    with pytest.raises(UserError, match=r"judge brain: answers greedily, but temperature 0.5 is asked for"):
        judge.ask(question(temperature=0.5))
    assert judge.ask(question()) == judge.ask(question()) == "yes"
    with pytest.raises(JudgeError, match="budget: the 1 calls"):
        judge.ask(question("Another?"))
    assert len(heard) == 1
    silent, _ = brain("<think>", folder=tmp_path / "other")
    with pytest.raises(JudgeError, match="empty answer"):
        silent.ask(question())


def test_the_brain_of_a_bridge_says_as_much_as_the_request_allows(bridge: Bridge, picture: Image.Image) -> None:
    pipeline = BridgePipeline(bridge)
    answer, identity = judge_brain(BridgeSubject(pipeline, {}))
    for most in (2, 9):
        assert answer("How many?", [picture], most) == pipeline.answer("How many?", picture, max_new_tokens=most)
    assert answer("How many?", [picture], 2) != answer("How many?", [picture], 9)
    assert identity["fingerprint"] == bridge.brain.identity["fingerprint"]


# canaries


def of_picture(seen: Seen) -> Canary:
    (picture,) = seen.images
    pixels = picture.convert("RGB").tobytes()
    (found,) = [c for c in CANARIES if c.question in seen.text and c.picture().tobytes() == pixels]
    return found


def sees(seen: Seen) -> Reply:
    return says("Yes." if of_picture(seen).answer else "**No**, I cannot see that.")


def test_canaries_are_twenty_with_as_many_yes_as_no() -> None:
    assert len(CANARIES) == 20
    assert sum(c.answer for c in CANARIES) == 10
    assert len({c.picture().tobytes() for c in CANARIES}) == 20
    for question_, pair in canary.PAIRS.items():
        assert len(pair) == 2, question_


def test_canaries_show_what_they_say() -> None:
    """Read from pixels: the colors of each picture, and where they are."""
    pixels = {color: name for name, color in canary.COLORS.items()} | {(255, 255, 255): "white"}
    for one in CANARIES:
        counts = one.picture().getcolors()
        assert counts is not None
        assert {pixels[color] for _, color in counts} == {"white"} | {shape.split()[0] for shape in one.shapes}  # type: ignore[index]
        assert sum(count for count, color in counts if color != (255, 255, 255)) > 1500
    left, right = (CANARIES[place].picture() for place in (6, 7))
    assert [left.getpixel((60, 128)), left.getpixel((196, 128))] == [canary.COLORS["blue"], canary.COLORS["red"]]
    assert [right.getpixel((60, 128)), right.getpixel((196, 128))] == [canary.COLORS["red"], canary.COLORS["blue"]]


def test_a_judge_that_sees_is_right_on_all_and_asked_once_each(tmp_path: Path) -> None:
    with JudgeServer(sees) as server:
        judge = load(server.word, folder=tmp_path)
        canary.check(judge)
        assert len(server.seen) == 2
        assert canary.drift(judge) == canary.Drift(20, 20, (), ())
        assert len(server.seen) == 20
        canary.check(load(server.word, folder=tmp_path))
        assert len(server.seen) == 20
    replay = load(f"replay:{tmp_path / 'judge.jsonl'}", folder=tmp_path)
    canary.check(replay)
    assert canary.drift(replay).right == 20


@pytest.mark.parametrize(
    ("say", "line"),
    [
        (
            lambda one: "yes",
            "says yes to 'Is there a red circle in the picture?' of a red circle and of a blue square, so it does not see pictures",
        ),
        (lambda one: "No image was provided.", "says no to 'Is there a red circle in the picture?' of a red circle and of a blue square"),
        (lambda one: "no" if one.answer else "yes", "is wrong about 'Is there a red circle in the picture?'"),
        (lambda one: "I see shapes.", "fails on a picture of a single shape, so nothing was scored: no answer of 3 could be read"),
    ],
)
def test_a_judge_that_does_not_see_scores_nothing(say: Any, line: str, tmp_path: Path) -> None:
    with JudgeServer(lambda seen: says(say(of_picture(seen)))) as server:
        with pytest.raises(UserError, match=re.escape(f"judge scripted-judge: {line}")) as caught:
            canary.check(load(server.word, folder=tmp_path))
        assert "\n" not in str(caught.value)


def test_a_judge_that_was_mended_is_looked_at_again(tmp_path: Path) -> None:
    """The kept answers of a blind judge must not speak for the one that is served in its place."""
    with JudgeServer(lambda seen: says("yes") if seen.number < 2 else sees(seen)) as server:
        with pytest.raises(UserError, match="does not see pictures"):
            canary.check(load(server.word, folder=tmp_path))
        canary.check(load(server.word, folder=tmp_path))
        assert len(server.seen) == 4


def test_drift_counts_wrong_and_silent_apart(tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        place = CANARIES.index(of_picture(seen))
        return says(
            {3: "yes", 4: "perhaps", 5: ""}.get(place, "yes" if CANARIES[place].answer else "no"), refusal="no" if place == 5 else None
        )

    with JudgeServer(script) as server:
        found = canary.drift(load(server.word, folder=tmp_path))
    assert found == canary.Drift(
        17,
        20,
        ("Is the triangle green? no",),
        ("Are there exactly three circles in the picture? yes", "Are there exactly three circles in the picture? no"),
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("yes", True),
        ("No.", False),
        ("**Yes**", True),
        ("Yes, there is no doubt", True),
        ("I look closely. The answer is: no!", False),
        ("_no_", False),
    ],
)
def test_yes_or_no(text: str, answer: bool) -> None:
    assert yes_or_no(text) is answer


@pytest.mark.parametrize("text", ["", "maybe", "Yes or no", "yesterday", "nothing", "I would say yes here"])
def test_neither_yes_nor_no(text: str) -> None:
    with pytest.raises(ParseError):
        yes_or_no(text)
