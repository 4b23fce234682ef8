"""An image endpoint as the subject, against a server that does everything endpoints have been seen to do."""

from __future__ import annotations

import base64
import json
import logging
import random
import re
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import plan
from metabridge.eval.generate import drawn, generate
from metabridge.eval.http_client import BAD_TRIES, LONGEST_WAIT, TRIES
from metabridge.eval.items import INFRA_ERROR, MODEL_ERROR, OK
from metabridge.eval.subjects import Drawing
from metabridge.eval.subjects.endpoint import OUTAGE, EndpointSubject, load
from tests.eval.image_server import MODEL, ImageServer, Seen, color, encoded, paints
from tests.eval.judge_server import DROPPED, Reply, fails, of
from tests.eval.small_benchmark import NOTHING, PROMPTS, planned, small

KEY = "sk-test-0123456789abcdef"
DATE = format_datetime(datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=3), usegmt=True)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> Iterator[None]:
    """A key is set in every test; whatever the test was about, the key is in no log line and in no file afterwards."""
    monkeypatch.setenv("METABRIDGE_IMAGE_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY not in caplog.text
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


class Slept(list[float]):
    """Waits in no time, and remembers how long it should have been."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def subject_at(server: ImageServer, **options: Any) -> EndpointSubject:
    return load(server.word, benchmark=small(), **{"timeout": 5.0, "sleep": Slept(), **options})


def draw(subject: EndpointSubject, count: int = 1, images: Any = (), **settings: Any) -> list[Drawing]:
    samples = planned(small(), subject).samples()[:count]
    return subject.draw("bridge", samples, [images] * count, {**dict.fromkeys(NOTHING), **settings})


def fill(image: Image.Image | None) -> tuple[int, ...]:
    """The one color of a picture."""
    assert image is not None
    (pixel,) = {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}
    return pixel


CAT = color({"prompt": "a red cat", "seed": 0})  # the first sample


def holds(**row: Any) -> Reply:
    return of({"data": [row]})


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_what_is_asked_and_what_comes(tmp_path: Path) -> None:
    with ImageServer(paints) as server:
        subject = subject_at(server)
        made = planned(small(), subject, height=32, width=48)
        generate(made, tmp_path, subject)
        for sample in made.samples():
            with Image.open(tmp_path / sample.file) as image:
                assert image.size == (48, 32)
                assert fill(image) == color({"prompt": sample.item.text, "seed": sample.seed})
        asked = sorted(server.seen, key=lambda seen: seen.fields["seed"])
    assert asked[0].fields == {
        "model": MODEL,
        "prompt": "a red cat",
        "n": 1,
        "response_format": "b64_json",
        "seed": 0,
        "size": "48x32",
    }
    assert [seen.fields["seed"] for seen in asked] == [0, 1, 1000, 1001, 2000, 2001, 3000, 3001]
    assert {seen.path for seen in asked} == {"/v1/images/generations"}
    assert {seen.headers["authorization"] for seen in asked} == {f"Bearer {KEY}"}
    assert made.identity["generation"]["height"] == 32
    identity = made.identity["model"]
    assert identity["kind"] == "endpoint" and identity["name"] == server.word and identity["model"] == MODEL
    assert identity["seed"] == "sent with each prompt; the endpoint may ignore it"


def test_without_a_size_none_is_asked_for() -> None:
    with ImageServer(paints) as server:
        subject = subject_at(server)
        assert subject.generation(NOTHING) == {"height": None, "width": None}
        assert fill(draw(subject)[0].image) == CAT
        assert "size" not in server.seen[0].fields


def test_a_run_asks_for_nothing_twice(tmp_path: Path) -> None:
    """A whole one is not asked again at all, of an incomplete one only what lacks."""

    def script(seen: Seen) -> Reply:
        return fails(400, "too long") if seen.fields["seed"] == 2001 and seen.number < 20 else paints(seen)

    with ImageServer(script) as server:
        subject = subject_at(server)
        made = planned(small(), subject)
        generate(made, tmp_path, subject)
        states = {key: record["state"] for key, record in drawn(tmp_path).items()}
        assert states.pop("bridge/plants/oak-1") == INFRA_ERROR and set(states.values()) == {OK}
        assert drawn(tmp_path)["bridge/plants/oak-1"]["reason"] == "refused the request (400: too long)"
        assert len(server.seen) == 8
        server.script = paints
        generate(made, tmp_path, subject_at(server))  # as a new process would
        assert len(server.seen) == 9 and server.seen[-1].fields["seed"] == 2001
        generate(made, tmp_path, subject_at(server))
        assert len(server.seen) == 9
        assert {record["state"] for record in drawn(tmp_path).values()} == {OK}


def test_a_refusal_is_the_models_and_stays(tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        if "dog" not in seen.fields["prompt"]:
            return paints(seen)
        return fails(400, "Your request was rejected by the safety system.", "moderation_blocked")

    with ImageServer(script) as server:
        subject = subject_at(server)
        made = planned(small(), subject)
        generate(made, tmp_path, subject)
        record = drawn(tmp_path)["bridge/animals/dog-0"]
        assert record["state"] == MODEL_ERROR
        assert record["reason"] == "refused (400: Your request was rejected by the safety system. moderation_blocked)"
        generate(made, tmp_path, subject_at(server))
        assert len(server.seen) == 8


CAME: dict[str, tuple[Callable[[str], list[Reply | None]], int]] = {  # script of the server's root, posts until there is a picture
    "b64_json": (lambda root: [holds(b64_json=b64(encoded(CAT)))], 1),
    "JPEG and WebP are pictures": (lambda root: [holds(b64_json=b64(encoded(CAT, kind="WEBP")))], 1),
    "a data: address": (lambda root: [holds(b64_json=f"data:image/png;base64,{b64(encoded(CAT))}")], 1),
    "url": (lambda root: [holds(b64_json=None, url=f"{root}/pictures/{'-'.join(map(str, CAT))}.png?signed=1")], 1),
    "a url that is data": (lambda root: [holds(url=f"data:image/png;base64,{b64(encoded(CAT))}")], 1),
    "408": (lambda root: [fails(408), None], 2),
    "409": (lambda root: [fails(409), None], 2),
    "429": (lambda root: [fails(429, "slow down"), None], 2),
    "500 twice": (lambda root: [fails(500), fails(503), None], 3),
    "error inside 200": (lambda root: [of({"error": {"code": 429, "message": "slow down"}}), None], 2),
    "dropped": (lambda root: [DROPPED, DROPPED, None], 3),
    "dropped in the middle": (lambda root: [Reply(b'{"data": [{"b64', missing=400), None], 2),
    "truncated JSON": (lambda root: [Reply(b'{"data": [{"b64_json": "iVBO'), None], 2),
    "no JSON": (lambda root: [Reply(b"<html>maintenance</html>"), None], 2),
    "no picture": (lambda root: [of({"data": []}), holds(b64_json=None), None], 3),
    "a truncated picture": (lambda root: [holds(b64_json=b64(encoded(CAT)[:-30])), None], 2),
    "no base64": (lambda root: [holds(b64_json="iVBORw0KGgo"), None], 2),
    "a picture of zero bytes": (lambda root: [holds(b64_json="===="), None], 2),
    "two pictures": (lambda root: [of({"data": [{"b64_json": b64(encoded((1, 1, 1)))}] * 2}), None], 2),
}


@pytest.mark.parametrize("name", CAME)
def test_comes_in_the_end(name: str) -> None:
    script, posts = CAME[name]
    with ImageServer([]) as server:
        server.script = script(server.root)
        (drawing,) = draw(subject_at(server))
        assert (drawing.state, fill(drawing.image)) == (OK, CAT)
        assert len(server.posts) == posts


REFUSED = {
    "moderation_blocked": fails(400, "Your request was rejected by the safety system.", "moderation_blocked"),
    "content_policy_violation": fails(400, "This request has been blocked by our content filters.", "content_policy_violation"),
    "of 403": fails(403, "Request Moderated"),
    "of 422": of({"detail": "NSFW content detected in the prompt"}, status=422),
    "inside 200": holds(b64_json=None, finish_reason="content_filter"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_a_model_error(name: str) -> None:
    with ImageServer([REFUSED[name]]) as server:
        (drawing,) = draw(subject_at(server))
        assert (drawing.image, drawing.state) == (None, MODEL_ERROR)
        assert drawing.reason.startswith("refused (") and len(server.posts) == 1


LOST: dict[str, tuple[Reply, int, str]] = {  # reply, posts, the reason
    "bad request": (fails(400, "n: 1 is not supported"), 1, "refused the request (400: n: 1 is not supported)"),
    "too large": (fails(413), 1, "refused the request (413)"),
    "425": (fails(425), 1, "refused the request (425)"),
    "safety of another kind": (fails(400, "safety_tolerance: missing"), 1, "refused the request (400: safety_tolerance: missing)"),
    "always busy": (fails(429, "slow down"), TRIES, f"429: slow down, at the last of {TRIES} tries"),
    "always down": (fails(503), TRIES, f"503, at the last of {TRIES} tries"),
    "always dropped": (DROPPED, TRIES, "connection lost"),
    "never JSON": (Reply(b"{"), BAD_TRIES, "the response holds no list of pictures, at the last of 3 tries"),
    "never a picture": (holds(b64_json=b64(b"")), BAD_TRIES, "neither b64_json nor url in the response"),
    "no picture in the bytes": (holds(b64_json=b64(b"text")), BAD_TRIES, "its picture cannot be read (no picture in its 4 bytes)"),
    "file": (holds(url="file:///etc/passwd"), 1, "its picture lies at no http or https address, but at file:"),
    "ftp": (holds(url="ftp://127.0.0.1/x.png"), 1, "its picture lies at no http or https address, but at ftp:"),
}


@pytest.mark.parametrize("name", LOST)
def test_is_lost_and_asked_for_by_the_next_run(name: str) -> None:
    """Beside one that comes, so that the run goes on."""
    reply, posts, reason = LOST[name]
    with ImageServer(lambda seen: reply if seen.fields["seed"] == 0 else paints(seen)) as server:
        lost, came = draw(subject_at(server), 2)
        assert (lost.image, lost.state, came.state) == (None, INFRA_ERROR, OK)
        assert reason in lost.reason
        assert len(server.posts) == posts + 1


def test_a_picture_that_has_gone_is_not_paid_for_again() -> None:
    with ImageServer([]) as server:
        server.script = lambda seen: paints(seen) if seen.fields["seed"] else holds(url=f"{server.root}/gone.png")
        lost, _ = draw(subject_at(server), 2)
        assert (lost.state, lost.reason) == (INFRA_ERROR, "its picture could not be fetched (404)")
        assert len(server.posts) == 2 and len(server.seen) == 3


def test_other_hosts_do_not_see_the_key() -> None:
    with ImageServer([]) as server:
        server.script = lambda seen: holds(url=f"{server.root}/pictures/1-2-3.png")
        assert fill(draw(subject_at(server))[0].image) == (1, 2, 3)
        post, get = server.seen
        assert post.headers["authorization"] == f"Bearer {KEY}" and "authorization" not in get.headers


def test_waits() -> None:
    """As long as the server says, within reason; else twice as long each time, up to a minute."""
    slept = Slept()
    replies = [fails(429, retry_after="7"), fails(503, retry_after=DATE), *[fails(500)] * (TRIES - 3), None]
    with ImageServer(replies) as server:
        draw(subject_at(server, sleep=slept))
    assert slept[:2] == [7.0, LONGEST_WAIT]
    assert all(min(2**n, 60) <= pause < min(2**n, 60) + 1 for n, pause in enumerate(slept[2:], start=2))
    with ImageServer([Reply(delay=2.0)]) as server:
        assert draw(subject_at(server, timeout=0.05))[0].reason == "no answer within 0.05 s, at the last of 8 tries"


UNTAKEN = {
    "as OpenAI words it": fails(400, "Unknown parameter: 'response_format'.", "unknown_parameter"),
    "as pydantic does": of({"detail": [{"loc": ["body", "response_format"], "msg": "Extra inputs are not permitted"}]}, status=422),
}


@pytest.mark.parametrize("name", UNTAKEN)
def test_fields_that_a_server_does_not_take(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """They are left out from then on, which is said once; a prompt may hold their names."""

    def script(seen: Seen) -> Reply:
        if "response_format" in seen.fields:
            return UNTAKEN[name]
        return fails(400, "Unknown parameter: 'seed'.") if "seed" in seen.fields else paints(seen)

    with ImageServer(script) as server:
        subject = subject_at(server, concurrency=1)
        assert {drawing.state for drawing in draw(subject, 3)} == {OK}
        assert len(server.posts) == 5
        assert sorted(server.posts[-1].fields) == ["model", "n", "prompt"]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    where = f"endpoint {MODEL} at {server.root.removeprefix('http://')}"
    assert warned == [
        f"{where}: takes no response_format, which is left out from now on: it answers as it likes",
        f"{where}: takes no seed, which is left out from now on: its pictures differ from run to run",
    ]


def test_a_prompt_may_hold_the_name_of_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROMPTS, ("animals", "cat"), 'a poppy "seed" of \u00e9t\u00e9, flagged')
    with ImageServer(
        lambda seen: fails(400, f"cannot draw {seen.fields['prompt']}") if not seen.fields["seed"] else paints(seen)
    ) as server:
        lost, _ = draw(subject_at(server), 2)
        assert lost.reason == "refused the request (400: cannot draw ...)"


STOPS: dict[str, tuple[Reply, str]] = {
    "401": (
        fails(401, f"Incorrect API key provided: {KEY}"),
        "refuses the key in METABRIDGE_IMAGE_KEY (401: Incorrect API key provided: [key]); "
        "set it to one that is allowed there and run the same command again",
    ),
    "403": (
        fails(403, "not for you"),
        "refuses the key in METABRIDGE_IMAGE_KEY (403: not for you); set it to one that is allowed there and run the same command again",
    ),
    "404": (
        fails(404, "The model does not exist", "model_not_found"),
        "no such address or model there (404: The model does not exist model_not_found); correct the address or the model's name",
    ),
    "a page that has moved": (
        Reply(status=301, headers={"location": "/elsewhere"}),
        "no such address or model there (301); correct the address or the model's name",
    ),
    "credit": (
        fails(429, "You exceeded your current quota", "insufficient_quota"),
        "no credit left (429: You exceeded your current quota insufficient_quota); fill it up and run the same command again",
    ),
}


@pytest.mark.parametrize("name", STOPS)
def test_stops_at_once(name: str, tmp_path: Path) -> None:
    reply, told = STOPS[name]
    with ImageServer([reply]) as server:
        subject = subject_at(server, concurrency=1)
        made = planned(small(images=20), subject)
        with pytest.raises(UserError) as caught:
            generate(made, tmp_path, subject)
        where = f"endpoint {MODEL} at {server.root.removeprefix('http://')}"
        assert str(caught.value) == f"{where}: {told}"
        assert KEY not in "".join(traceback.format_exception(caught.value))
        assert len(server.seen) == 1


def test_no_key_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METABRIDGE_IMAGE_KEY")
    with ImageServer([fails(401)]) as server:
        with pytest.raises(UserError) as caught:
            draw(subject_at(server))
        assert str(caught.value).endswith(
            ": wants a key (401), and neither METABRIDGE_IMAGE_KEY nor OPENAI_API_KEY is set; "
            "set METABRIDGE_IMAGE_KEY and run the same command again"
        )
        assert "authorization" not in server.seen[0].headers
    monkeypatch.setenv("OPENAI_API_KEY", KEY[::-1])
    with ImageServer(paints) as server:
        draw(subject_at(server))
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY[::-1]}"
    monkeypatch.setenv("METABRIDGE_IMAGE_KEY", "two words")
    with pytest.raises(UserError, match=r"^METABRIDGE_IMAGE_KEY: holds blanks or signs that no key has; set it to the key alone$"):
        load("https://host/v1#model", benchmark=small())


def test_what_was_had_before_an_outage_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server goes down in the middle of a chunk; what it gave is kept, the next chunk is not tried."""
    with ImageServer(lambda seen: paints(seen) if seen.number < 5 else fails(503)) as server:
        subject = subject_at(server, concurrency=1)
        made = planned(small(images=10), subject)
        with pytest.raises(UserError, match=r"does not answer any more \(503, at the last of 8 tries\); see that it runs"):
            generate(made, tmp_path, subject)
        assert sum(record["state"] == OK for record in drawn(tmp_path).values()) == 5
        assert "3 of 4 pictures could not be had, the first: 503, at the last of 8 tries" in caplog.text
        assert len(server.seen) == 5 + OUTAGE * TRIES
        server.script = paints
        before = len(server.seen)
        generate(made, tmp_path, subject_at(server))
        assert len(server.seen) - before == 35
        assert {record["state"] for record in drawn(tmp_path).values()} == {OK}
    with ImageServer(lambda seen: paints(seen) if seen.number < 5 else fails(503)) as server:  # all in one piece
        drawings = subject_at(server, concurrency=1).draw("bridge", made.samples(), [()] * 40, {})
        assert [drawing.state for drawing in drawings] == [OK] * 5 + [INFRA_ERROR] * 35
        assert any("does not answer any more" in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


def test_a_chunk_without_any_picture_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """But not a few that lack: the endpoint may never take them, and the rest waits to be scored."""
    with ImageServer([fails(400, "size: 30x30 is not supported")]) as server:
        told = (
            f"endpoint {MODEL} at {server.root.removeprefix('http://')}: {{0}} of {{0}} pictures could not be had, the first: "
            "refused the request (400: size: 30x30 is not supported); "
            "when that is mended, run the same command again: what is done stays done"
        )
        with pytest.raises(UserError) as caught:
            draw(subject_at(server), 8, height=30, width=30)
        assert str(caught.value) == told.format(8)
        assert {drawing.state for drawing in draw(subject_at(server), 3, height=30, width=30)} == {INFRA_ERROR}
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [told.format(3)]


def test_budget(tmp_path: Path) -> None:
    with ImageServer(paints) as server:
        subject = subject_at(server, max_calls=5)
        made = planned(small(), subject)
        generate(made, tmp_path, subject)
        assert len(server.seen) == 5
        reasons = {record["reason"] for record in drawn(tmp_path).values() if record["state"] == INFRA_ERROR}
        assert reasons == {"budget: the 5 calls that were allowed are used up; allow more"}
        generate(made, tmp_path, subject_at(server, max_calls=3))
        assert {record["state"] for record in drawn(tmp_path).values()} == {OK}
    with ImageServer([fails(500), fails(500), None]) as server:  # repeated ones are counted, too
        assert draw(subject_at(server, max_calls=2))[0].reason == "budget: the 2 calls that were allowed are used up; allow more"
        assert len(server.seen) == 2


def test_many_at_once_with_faults_come_each_to_its_own() -> None:
    """Thirty percent of the replies are faults; no picture lands at another prompt."""
    dice = random.Random(3)

    def script(seen: Seen) -> Reply:
        good = paints(seen)
        faults = [fails(500), fails(429), DROPPED, Reply(good.body[:30]), Reply(b"<html>"), holds(b64_json="")]
        return dice.choice(faults) if dice.random() < 0.3 else Reply(good.body, delay=0.01)

    with ImageServer(script) as server:
        subject = subject_at(server, concurrency=8)
        samples = planned(small(images=10), subject).samples()
        drawings = subject.draw("bridge", samples, [()] * 40, {})
        assert server.most_busy in range(4, 9)
    for sample, drawing in zip(samples, drawings, strict=True):
        if drawing.state == OK:
            assert fill(drawing.image) == color({"prompt": sample.item.text, "seed": sample.seed})
    assert sum(drawing.state == OK for drawing in drawings) >= 36


def test_edits_send_their_pictures(tmp_path: Path, picture: Image.Image, wide_picture: Image.Image) -> None:
    benchmark = small(images=1, task="edit", edit=True)
    picture.save(tmp_path / "source.png")
    with ImageServer(paints) as server:
        subject = subject_at(server)
        made = planned(benchmark, subject)
        generate(made, tmp_path / "out", subject, data=tmp_path)
        seen = server.seen[0]
        assert seen.path == "/v1/images/edits"
        assert sorted(seen.fields) == ["model", "n", "prompt", "response_format", "seed"] and seen.fields["model"] == MODEL
        ((name, sent),) = seen.pictures
        assert name == "image" and (np.asarray(sent) == np.asarray(picture)).all()
        draw(subject, images=[picture, wide_picture])
        assert [(name, image.size) for name, image in server.seen[-1].pictures] == [("image[]", (48, 64)), ("image[]", (96, 40))]


def test_a_rewritten_prompt_is_kept() -> None:
    row = {"b64_json": b64(encoded(CAT)), "revised_prompt": f"a crimson cat, {KEY}"}
    with ImageServer([holds(**row), holds(**row | {"revised_prompt": "a red cat"})]) as server:
        subject = subject_at(server)
        assert [draw(subject)[0].thought for _ in range(2)] == ["a crimson cat, [key]", None]


def test_another_size_than_asked_for_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with ImageServer([holds(b64_json=b64(encoded(CAT)))]) as server:
        draw(subject_at(server), 3, height=32, width=48)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [f"endpoint {MODEL} at {server.root.removeprefix('http://')}: --size 32x48 asked for, 16x24 came"]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("https://me:secret@host:8/v1#m", "endpoint at host:8: a name or password stands in the address; put the key into "),
        ("https://secret@host/v1#m", "endpoint at host: a name or password stands in the address; put the key into "),
        ("https://host/v1?key=secret#m", "endpoint at host: the address has ?key=, which may be a secret; put the key into "),
        ("https://host/v1", "endpoint at host: says no model; write endpoint:URL#MODEL, as endpoint:https://api.example.com/v1#model"),
        ("ftp://host/v1#m", "endpoint: no address given; write endpoint:URL#MODEL, as endpoint:https://api.example.com/v1#model"),
        ("host/v1#m", "endpoint: no address given; write endpoint:URL#MODEL, as "),
        ("https://ho st/v1#m", "endpoint: no address given; write endpoint:URL#MODEL, as "),
        ("https://host:port/v1#m", "endpoint: no address given; write endpoint:URL#MODEL, as "),
    ],
)
def test_addresses_that_are_refused(word: str, line: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(line)}") as caught:
        load(word, benchmark=small())
    assert "secret" not in str(caught.value).replace("may be a secret", "")


@pytest.mark.parametrize(
    ("end", "path"),
    [
        ("", "/v1/images/generations"),
        ("/", "/v1/images/generations"),
        ("/v1/", "/v1/images/generations"),
        ("/v1/images/generations", "/v1/images/generations"),
        ("/openai/v1/images/edits?api-version=2025-04-01", "/openai/v1/images/generations?api-version=2025-04-01"),
    ],
)
def test_addresses(end: str, path: str) -> None:
    with ImageServer(paints) as server:
        subject = load(f"{server.root}{end}#org/a#b", benchmark=small())
        draw(subject)
        assert (server.seen[0].path, server.seen[0].fields["model"]) == (path, "org/a#b")
        same = load(f"{server.root}{end}#org/a#b", benchmark=small()).identity["fingerprint"]
        other = load(f"{server.root}{end}#org/c", benchmark=small()).identity["fingerprint"]
        assert subject.identity["fingerprint"] == same != other


def test_what_is_refused() -> None:
    subject = load("https://host/v1#model", benchmark=small())
    for name, option in [("num_inference_steps", "--steps"), ("guidance_scale", "--guidance")]:
        with pytest.raises(UserError) as caught:
            subject.generation({**NOTHING, name: 4})
        assert str(caught.value) == f"{option}: has no effect on an image endpoint, which takes no such setting; leave it out"
    samples = plan.make(small(), subject.identity, {}, {}, rows=["think"]).samples()
    with pytest.raises(UserError, match=r"^--rows think: only a bridge draws in several ways; leave it out$"):
        subject.draw("think", samples, [()] * 8, {})


def test_the_plan_holds_no_key(tmp_path: Path) -> None:
    with ImageServer(paints) as server:
        subject = subject_at(server)
        plan.save(planned(small(), subject), tmp_path)
        assert json.loads((tmp_path / "plan.json").read_text())["identity"]["model"]["host"] == server.root.removeprefix("http://")
