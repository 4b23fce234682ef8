"""The endpoint client against a server that does everything endpoints have been seen to do."""

from __future__ import annotations

import logging
import random
import re
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import http_client
from metabridge.eval.calls import Budget
from metabridge.eval.http_client import LONGEST_PAUSE, LONGEST_WAIT, TRIES
from metabridge.eval.items import Unscored
from metabridge.eval.judges import SPENT, JudgeError, Message, Request, load
from metabridge.eval.judges.asking import ParseError, Unparsed, ask
from metabridge.eval.judges.cache import Recorded
from metabridge.eval.judges.endpoint import OUTAGE, Endpoint
from tests.eval.judge_server import DROPPED, MODEL, JudgeServer, Reply, Seen, fails, of, says

KEY = "sk-test-0123456789abcdef"
GOOD = says("Score: 2")
DATE = format_datetime(datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=3), usegmt=True)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> Iterator[None]:
    """A key is set in every test; whatever the test was about, the key is in no log line and in no file afterwards."""
    monkeypatch.setenv("METABRIDGE_JUDGE_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY not in caplog.text
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def question(text: str = "How good is it?", color: tuple[int, int, int] = (10, 20, 30), **settings: Any) -> Request:
    return Request((Message("system", ("You grade pictures.",)), Message("user", (Image.new("RGB", (8, 6), color), text))), **settings)


def score(text: str) -> int:
    """`Score: 0` to `Score: 2`, and nothing else."""
    found = re.fullmatch(r"Score: ([0-2])", text)
    if not found:
        raise ParseError("no line of the form Score: 0, 1 or 2")
    return int(found.group(1))


class Slept(list[float]):
    """Waits in no time, and remembers how long it should have been."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def client(server: JudgeServer, sleep: Callable[[float], object] | None = None, **settings: Any) -> Endpoint:
    return Endpoint(server.address, MODEL, sleep=Slept() if sleep is None else sleep, **{"timeout": 5.0, **settings})


ANSWERED: dict[str, tuple[list[Reply], int]] = {  # script, calls until there is a score of 2
    "valid": ([GOOD], 1),
    "content in parts": ([says([{"type": "text", "text": "Score: "}, {"type": "text", "text": "2"}])], 1),  # type: ignore[arg-type]
    "thought": ([says("<think>Score: 0?\nno</think>\n\nScore: 2")], 1),
    "thought that the template opened": ([says("Score: 0?\nno</think>Score: 2")], 1),
    "thought after the answer that never ends": ([says("Score: 2 <think>or is it")], 1),
    "thought beside the answer": ([says("Score: 2", reasoning_content="Score: 0?")], 1),
    "dated model": ([says("Score: 2", model=f"{MODEL}-2024-05-13")], 1),
    "owner before the model": ([says("Score: 2", model=f"acme/{MODEL}")], 1),
    "no model named": ([says("Score: 2", model=None)], 1),
    "missing field": ([says("It looks fine."), GOOD], 2),
    "missing field twice": ([says("It looks fine."), says("Fine."), GOOD], 3),
    "out of range": ([says("Score: 7"), GOOD], 2),
    "two answers in one": ([says("Score: 1\nScore: 2"), GOOD], 2),
    "two choices": ([of({"choices": [{"message": {"content": "Score: 1"}}, {"message": {"content": "Score: 2"}}]}), GOOD], 2),
    "empty content": ([says(""), says("  \n"), GOOD], 3),
    "no content": ([says(None), GOOD], 2),
    "thought that never ends": ([says("<think>Score: 1"), GOOD], 2),
    "thought alone, beside": ([says("", reasoning_content="hm"), GOOD], 2),
    "broken-off answer": ([says("Sco", finish="error"), GOOD], 2),
    "408": ([fails(408), GOOD], 2),
    "409": ([fails(409), GOOD], 2),
    "425": ([fails(425), GOOD], 2),
    "429": ([fails(429, "slow down"), GOOD], 2),
    "500 twice": ([fails(500), fails(503), GOOD], 3),
    "529": ([fails(529, "overloaded"), GOOD], 2),
    "error inside 200": ([of({"error": {"code": 429, "message": "slow down"}}), GOOD], 2),
    "dropped": ([DROPPED, DROPPED, GOOD], 3),
    "dropped in the middle": ([Reply(GOOD.body, missing=40), GOOD], 2),
    "truncated JSON": ([Reply(GOOD.body[:-20]), GOOD], 2),
    "no JSON": ([Reply(b"<html>maintenance</html>"), GOOD], 2),
    "no bytes": ([Reply(b""), GOOD], 2),
    "binary": ([Reply(bytes(range(256))), GOOD], 2),
    "JSON of another kind": (
        [of([1, 2]), of({}), of({"choices": []}), of({"choices": [None]}), of({"choices": [{"message": 3}]}), GOOD],
        6,
    ),
    "content of another kind": ([of({"choices": [{"message": {"content": {"a": 1}}}]}), GOOD], 2),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_is_answered_in_the_end_and_free_the_next_time(name: str, tmp_path: Path) -> None:
    script, calls = ANSWERED[name]
    with JudgeServer(script) as server:
        for _ in range(2):  # the second time a new process would start from the file
            judge = Recorded(client(server), tmp_path / "judge.jsonl")
            assert ask(judge, question(), score).value == 2
            assert len(server.seen) == calls


UNSCORED: dict[str, tuple[list[Reply], int, str]] = {  # script, calls, the reason
    "never the field": ([says("It looks fine.")], 3, "no answer of 3 could be read: no line of the form Score: 0, 1 or 2"),
    "never in range": ([says("Score: 3")], 3, "the last one: 'Score: 3'"),
    "always empty": ([says("")], 3, "empty answer, at the last of 3 tries"),
    "always a thought": ([says("<think>Score: 1")], 3, "a thought without an answer, at the last of 3 tries"),
    "refusal": ([says(None, refusal="I cannot help with that.")], 1, "refused to answer (I cannot help with that.)"),
    "content filter": ([fails(400, "The response was filtered", "content_filter")], 1, "content filter (400: The response was filtered"),
    "filtered answer": ([says("", finish="content_filter")], 1, "content filter (finish_reason content_filter)"),
    "moderation": ([fails(403, "your input was flagged")], 1, "content filter (403: your input was flagged"),
    "cut off": ([says("Score: 2", finish="length")], 1, "cut off at max_tokens"),
    "bad request": ([fails(400, "temperature: 0 is not supported")], 1, "refused the request (400: temperature: 0 is not supported)"),
    "too large": ([fails(413)], 1, "refused the request (413)"),
    "not as wanted": ([of({"detail": "no pictures, please"}, status=422)], 1, "refused the request (422: no pictures, please)"),
    "always busy": ([fails(429, "slow down")], TRIES, f"429: slow down, at the last of {TRIES} tries"),
    "always down": ([fails(503)], TRIES, f"503, at the last of {TRIES} tries"),
    "always dropped": ([DROPPED], TRIES, "connection lost"),
    "never JSON": ([Reply(b"{")], TRIES, "the response is no chat completion"),
}


@pytest.mark.parametrize("name", UNSCORED)
def test_is_never_a_score(name: str, tmp_path: Path) -> None:
    script, calls, reason = UNSCORED[name]
    with JudgeServer(script) as server:
        with pytest.raises(Unscored, match=re.escape(reason)):
            ask(Recorded(client(server), tmp_path / "judge.jsonl"), question(), score)
        assert len(server.seen) == calls


STOPS: dict[str, tuple[Reply, str]] = {
    "401": (
        fails(401, f"Incorrect API key provided: {KEY}"),
        "refuses the key in METABRIDGE_JUDGE_KEY (401: Incorrect API key provided: [key])",
    ),
    "403": (fails(403, "no access"), "refuses the key in METABRIDGE_JUDGE_KEY (403: no access)"),
    "402": (fails(402, "pay first"), "no credit left (402: pay first)"),
    "no quota": (
        fails(429, "You exceeded your quota", "insufficient_quota"),
        "no credit left (429: You exceeded your quota insufficient_quota)",
    ),
    "404": (fails(404, "The model does not exist"), "no such address or model there (404: The model does not exist)"),
    "moved": (Reply(status=308, headers={"location": "http://127.0.0.1:1/"}), "no such address or model there (308)"),
    "another model": (says("Score: 2", model="gpt-4o-mini"), f"{MODEL} was asked, but gpt-4o-mini answered"),
}


@pytest.mark.parametrize("name", STOPS)
def test_what_would_be_the_same_for_all_stops_at_once(name: str, tmp_path: Path) -> None:
    reply, reason = STOPS[name]
    with JudgeServer(reply) as server:
        judge = Recorded(client(server), tmp_path / "judge.jsonl")
        for text in ("first", "second", "third"):
            with pytest.raises(UserError, match=re.escape(f"judge {MODEL} at 127.0.0.1:{server.server.server_port}: {reason}")) as caught:
                ask(judge, question(text), score)
            assert "\n" not in str(caught.value)
            assert KEY not in "".join(traceback.format_exception(caught.value))
        assert len(server.seen) == 1
        assert not (tmp_path / "judge.jsonl").exists()


def test_without_a_key_the_line_names_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METABRIDGE_JUDGE_KEY")
    with JudgeServer(fails(401, "no key")) as server, pytest.raises(UserError) as caught:
        client(server).ask(question())
    assert "wants a key (401: no key), and neither METABRIDGE_JUDGE_KEY nor OPENAI_API_KEY is set; set METABRIDGE_JUDGE_KEY" in str(
        caught.value
    )
    assert "authorization" not in server.seen[0].headers


def test_the_key_goes_into_the_header_and_nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Even where the judge repeats it: in an answer, in its name, in a body that is no JSON, in an error that is retried."""
    other = "sk-other-987654321"
    monkeypatch.setenv("OPENAI_API_KEY", other)
    script = [fails(500, f"upstream said {KEY}"), Reply(f"<b>{KEY}</b>".encode(), status=502), says(f"You sent {KEY}.")]
    with JudgeServer(script) as server:
        inner = client(server)
        assert Recorded(inner, tmp_path / "judge.jsonl").ask(question()) == "You sent [key]."
        assert {seen.headers["authorization"] for seen in server.seen} == {f"Bearer {KEY}"}
        assert KEY not in f"{inner!r} {vars(inner)} {vars(inner._client)} {inner._client._key} {inner.identity}"
        monkeypatch.delenv("METABRIDGE_JUDGE_KEY")
        client(server).ask(question())
        assert server.seen[-1].headers["authorization"] == f"Bearer {other}"


@pytest.mark.parametrize("value", ["sk-two words", "sk-ümlaut", "sk-line\nbreak"])
def test_a_key_that_no_header_can_hold_is_not_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METABRIDGE_JUDGE_KEY", value)
    with pytest.raises(UserError, match="METABRIDGE_JUDGE_KEY: holds blanks or signs that no key has") as caught:
        Endpoint("http://127.0.0.1:1/v1", MODEL)
    assert value not in "".join(traceback.format_exception(caught.value))


def test_a_key_that_is_none_does_not_eat_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers without keys are given one like this; it would be a part of answers."""
    monkeypatch.setenv("METABRIDGE_JUDGE_KEY", "EMPTY")
    with JudgeServer(says("An EMPTY street.")) as server:
        assert client(server).ask(question()) == "An EMPTY street."


def test_waits_twice_as_long_each_time_and_not_all_at_once() -> None:
    slept = Slept()
    with JudgeServer(fails(500)) as server, pytest.raises(JudgeError):
        client(server, slept).ask(question())
    assert len(slept) == TRIES - 1
    for number, pause in enumerate(slept):
        least = min(2.0**number, LONGEST_PAUSE)
        assert least <= pause <= least + 1
    assert len({pause % 1 for pause in slept}) == len(slept)  # the random part differs


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("1.5", 1.5, 1.5),
        ("99999", LONGEST_WAIT, LONGEST_WAIT),
        ("0", 1, 2),
        ("soon", 1, 2),
        pytest.param(DATE, LONGEST_WAIT, LONGEST_WAIT, id="a date"),
    ],
)
def test_waits_as_long_as_the_server_asks(header: str, low: float, high: float) -> None:
    slept = Slept()
    with JudgeServer([fails(429, retry_after=header), GOOD]) as server:
        assert client(server, slept).ask(question()) == "Score: 2"
    assert len(slept) == 1
    assert low <= slept[0] <= high


def test_really_waits() -> None:
    with JudgeServer([fails(503, retry_after="0.2"), GOOD]) as server:
        judge = Endpoint(server.address, MODEL, timeout=5.0)
        assert judge.ask(question()) == "Score: 2"
        assert server.times[1] - server.times[0] >= 0.2


def test_a_slow_answer_is_not_waited_for() -> None:
    with JudgeServer([says("Score: 1", delay=3.0), GOOD]) as server:
        assert client(server, timeout=0.2).ask(question()) == "Score: 2"
        assert len(server.seen) == 2
    with JudgeServer(says("Score: 1", delay=3.0)) as server, pytest.raises(JudgeError, match=r"no answer within 0.05 s, at the last of 8"):
        client(server, timeout=0.05).ask(question())


def test_nobody_there() -> None:
    with JudgeServer(GOOD) as server:
        judge = client(server)
    with pytest.raises(JudgeError, match="connection lost"):
        judge.ask(question())


def test_a_judge_that_has_gone_for_good_does_not_take_the_night() -> None:
    with JudgeServer(fails(503)) as server:
        judge = client(server)
        for number in range(OUTAGE - 1):
            with pytest.raises(JudgeError):
                judge.ask(question(str(number)))
        with pytest.raises(UserError, match=r"does not answer any more \(503, at the last of 8 tries\); see that it runs"):
            judge.ask(question())
        calls = len(server.seen)
        with pytest.raises(UserError, match="does not answer any more"):
            judge.ask(question("another"))
        assert len(server.seen) == calls == OUTAGE * TRIES


def test_an_answer_in_between_says_that_it_is_still_there() -> None:
    with JudgeServer(lambda seen: GOOD if "good" in seen.text else fails(503)) as server:
        judge = client(server)
        for number in range(2 * OUTAGE):
            if number % (OUTAGE // 2) == 0:
                assert judge.ask(question("good")) == "Score: 2"
            with pytest.raises(JudgeError):
                judge.ask(question(str(number)))


def test_the_body_says_what_was_asked() -> None:
    picture = Image.effect_noise((40, 20), 50).convert("RGB")
    picture.info["comment"] = "not for others"
    messages = (Message("system", ("Be strict.",)), Message("user", ("Before:", picture, "after.")), Message("assistant", ("Well.",)))
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "temperature": None}
    with JudgeServer(GOOD) as server:
        judge = client(server)
        judge.ask(Request(messages, max_tokens=99, extra=extra))
        judge.ask(Request(messages, temperature=0.5, max_side=10))
    whole, small = server.seen
    assert whole.path == "/v1/chat/completions"
    assert whole.body["messages"][0] == {"role": "system", "content": "Be strict."}
    assert [part["type"] for part in whole.body["messages"][1]["content"]] == ["text", "image_url", "text"]
    assert {name: value for name, value in whole.body.items() if name != "messages"} == {
        "model": MODEL,
        "max_tokens": 99,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    (sent,), (resized,) = whole.images, small.images
    assert (sent.format, sent.size, sent.info) == ("PNG", (40, 20), {})
    assert sent.tobytes() == picture.tobytes()
    assert (resized.size, small.body["temperature"]) == ((10, 5), 0.5)


@pytest.mark.parametrize(
    ("end", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/x/v1/chat/completions", "/x/v1/chat/completions"),
        ("/chat/completions", "/chat/completions"),
        ("/v1?api-version=3", "/v1/chat/completions?api-version=3"),
    ],
)
def test_addresses_may_end_early(end: str, path: str, tmp_path: Path) -> None:
    with JudgeServer(GOOD) as server:
        judge = load(f"{server.address.removesuffix('/v1')}{end}#{MODEL}", folder=tmp_path)
        assert judge.ask(question()) == "Score: 2"
        assert judge.identity == {"kind": "endpoint", "id": MODEL, "revision": None, "host": f"127.0.0.1:{server.server.server_port}"}
    assert server.seen[0].path == path


def test_the_budget_counts_every_call(tmp_path: Path) -> None:
    with JudgeServer([fails(500), GOOD]) as server:
        judge = Recorded(client(server, budget=Budget(3, SPENT)), tmp_path / "judge.jsonl")
        assert ask(judge, question("a"), score).value == 2  # two calls
        assert ask(judge, question("b"), score).value == 2  # the third
        for text in ("c", "d"):
            with pytest.raises(Unscored, match=r"budget: the 3 calls of --max-judge-calls are used up; run again with more"):
                ask(judge, question(text), score)
        assert ask(judge, question("a"), score).value == 2  # is free
        assert len(server.seen) == 3
        more = Recorded(client(server, budget=Budget(2)), tmp_path / "judge.jsonl")
        assert [ask(more, question(text), score).value for text in "abcd"] == [2, 2, 2, 2]
        assert len(server.seen) == 5


def test_a_budget_that_ends_between_two_tries() -> None:
    with JudgeServer(fails(500)) as server, pytest.raises(JudgeError, match="budget"):
        client(server, budget=Budget(2)).ask(question())
    assert len(server.seen) == 2


@pytest.mark.parametrize("places", [1, 3])
def test_no_more_questions_are_open_than_allowed(places: int) -> None:
    with JudgeServer(says("Score: 2", delay=0.05)) as server:
        judge = client(server, concurrency=places)
        with ThreadPoolExecutor(9) as threads:
            assert set(threads.map(judge.ask, [question(str(number)) for number in range(9)])) == {"Score: 2"}
        assert server.most_busy == places


def test_close_wakes_those_who_wait(tmp_path: Path) -> None:
    with JudgeServer(fails(429, retry_after="100")) as server:
        judge = Recorded(Endpoint(server.address, MODEL), tmp_path / "judge.jsonl")
        errors: list[Exception] = []

        def work() -> None:
            try:
                judge.ask(question())
            except JudgeError as error:
                errors.append(error)

        thread = Thread(target=work)
        thread.start()
        while not server.seen:
            thread.join(0.01)
        judge.close()
        thread.join(5)
        assert not thread.is_alive()
        assert str(errors[0]) == "closed while the question was waiting"


def test_another_version_of_the_model_is_not_mixed_in(tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        return says("Score: 2", model=f"{MODEL}-2024-05-13" if seen.number < 2 else f"{MODEL}-2024-08-06")

    with JudgeServer(script) as server:
        judge = Recorded(client(server), tmp_path / "judge.jsonl")
        assert judge.answered_as() == []
        judge.ask(question("a"))
        judge.ask(question("b"))
        later = Recorded(client(server), tmp_path / "judge.jsonl")
        assert later.answered_as() == judge.answered_as() == [f"{MODEL}-2024-05-13"]
        with pytest.raises(UserError, match=f"judge {MODEL}: answered as {MODEL}-2024-05-13 before and as {MODEL}-2024-08-06 now"):
            later.ask(question("c"))
        assert later.ask(question("a")) == "Score: 2"
    assert len((tmp_path / "judge.jsonl").read_text().splitlines()) == 2


FAULTS = (fails(429, retry_after="0.01"), fails(500), DROPPED, Reply(b'{"choices": [{"mess'), Reply(GOOD.body, missing=9))


def test_twenty_at_once_with_a_third_of_all_calls_failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer belongs to its question, whatever happened on the way; no call is made that was not needed, none twice."""
    monkeypatch.setattr(http_client, "PAUSE", 0.01)
    faults = {number: _faults(number) for number in range(60)}
    asked = dict.fromkeys(faults, 0)

    def script(seen: Seen) -> Reply:
        (picture,) = seen.images
        red, green, _ = picture.getpixel((0, 0))  # type: ignore[misc]
        number = red + green
        asked[number] += 1
        if asked[number] <= len(faults[number]):
            return faults[number][asked[number] - 1]
        return says(f"<think>{red}?</think>{number}", delay=0.3)  # longer than a loaded machine takes to begin twenty calls

    def number_in(text: str) -> int:
        return int(text)

    requests = [question("Which number is it?", (number // 2, number - number // 2, 0)) for number in faults]
    with JudgeServer(script) as server:

        def judged() -> list[int]:
            judge = Recorded(Endpoint(server.address, MODEL, concurrency=20, timeout=5.0), tmp_path / "judge.jsonl")
            with ThreadPoolExecutor(20) as threads:
                return list(threads.map(lambda request: ask(judge, request, number_in).value, requests))

        assert judged() == judged() == list(faults)
        assert asked == {number: len(replies) + 1 for number, replies in faults.items()}
        assert sum(asked.values()) > 1.3 * len(asked)
        assert server.most_busy > 10


def _faults(number: int) -> list[Reply]:
    """What goes wrong with this question before it is answered: each call fails with a probability of 0.3."""
    rng, replies = random.Random(number), []
    while rng.random() < 0.3 and len(replies) < TRIES - 1:
        replies.append(rng.choice(FAULTS))
    return replies


def test_unreadable_answers_are_asked_anew_by_the_next_run(tmp_path: Path) -> None:
    """Three times nonsense is no score; the same file must not make it so for ever."""
    with JudgeServer([says("one"), says("two"), says("three"), GOOD]) as server:
        path = tmp_path / "judge.jsonl"
        judge = Recorded(client(server), path)
        with pytest.raises(Unparsed) as caught:
            ask(judge, question(), score)
        assert caught.value.texts == ("one", "two", "three")
        with pytest.raises(Unparsed, match="'three'"):
            ask(judge, question(), score)
        assert len(server.seen) == 3
        with pytest.raises(Unparsed, match="'three'"):
            ask(load(f"replay:{path}", folder=tmp_path), question(), score)
        assert ask(Recorded(client(server), path), question(), score).texts == ("Score: 2",)
