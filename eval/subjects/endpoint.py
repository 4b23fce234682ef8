"""Any server that speaks `/v1/images/generations`, and `/v1/images/edits` where pictures come with a prompt."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import httpx
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import png
from metabridge.eval.address import Form, parse
from metabridge.eval.benchmarks import Benchmark
from metabridge.eval.calls import Again, Budget, Failed, one_line
from metabridge.eval.http_client import Client, fault, said, status_of, tree_of
from metabridge.eval.items import INFRA_ERROR, MODEL_ERROR
from metabridge.eval.plan import Sample
from metabridge.eval.subjects import Drawing
from metabridge.eval.subjects.asked import refuse_rows, refuse_settings
from metabridge.eval.subjects.pictures import Unreadable, decoded

log = logging.getLogger(__name__)

VARIABLES = ("METABRIDGE_IMAGE_KEY", "OPENAI_API_KEY")  # the first that is set counts
FORM = Form("endpoint", "endpoint:URL#MODEL, as endpoint:https://api.example.com/v1#model", VARIABLES[0])
GENERATIONS, EDITS = "images/generations", "images/edits"
CONCURRENCY, TIMEOUT = 4, 300.0  # seconds to wait for a picture
OUTAGE = 8  # pictures given up in a row, for want of a server, after which the others are not tried
_SIZE = ("height", "width")
# fields that a server may refuse, with what it then means to leave them out
_OPTIONAL = {"seed": "its pictures differ from run to run", "response_format": "it answers as it likes"}
# narrow: what is found counts as the model's own refusal, and so as a wrong picture
_REFUSED = re.compile(
    r"content.?(?:filter|policy|management|moderation|inspection)|data.?inspection|moderation.?(?:blocked|failed)|request.?moderated"
    r"|flagged|safety.?(?:system|filter|check)|responsible.?ai|nsfw|prohibited.?content",
    re.I,
)


class Refused(Exception):
    """The model will not draw this."""


class _Unwanted(Exception):
    """A field that the server does not take."""


class EndpointSubject:
    alone = True

    def __init__(self, name: str, client: Client, model: str, identity: Mapping[str, Any], concurrency: int) -> None:
        self._client, self._model, self._concurrency = client, model, concurrency
        self._left_out: set[str] = set()
        self._warned, self._lock = False, Lock()
        self._lost = 0  # pictures in a row
        self.identity: Mapping[str, Any] = {"kind": "endpoint", "name": name, **identity}

    def generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """None is whatever the endpoint does."""
        refuse_settings(asked, _SIZE, "an image endpoint, which takes no such setting")
        return {name: asked[name] for name in _SIZE}

    def draw(
        self, row: str, samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
    ) -> list[Drawing]:
        """What was had stays, whatever happened to the others. Where nothing at all comes there is something to be mended first."""
        refuse_rows(samples)
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            drawings = list(pool.map(lambda sample, own: self._drawing(sample, own, settings), samples, images))
        except BaseException:
            self._client.close()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if lost := [drawing.reason for drawing in drawings if drawing.state == INFRA_ERROR]:
            told = self._client.stopped or (
                f"{self._client.name}: {len(lost)} of {len(drawings)} pictures could not be had, the first: {lost[0]}; "
                "when that is mended, run the same command again: what is done stays done"
            )
            self._lost = self._lost + len(lost) if len(lost) == len(drawings) else 0
            # a few may be what the endpoint never takes, and must not keep the others from being scored
            if len(lost) == len(drawings) and (self._client.stopped or self._lost >= OUTAGE):
                raise UserError(told)
            log.warning("%s", told)
        else:
            self._lost = 0
        return drawings

    def _drawing(self, sample: Sample, images: Sequence[Image.Image], settings: Mapping[str, Any]) -> Drawing:
        try:
            image, revised = self._ask(sample, images, settings)
        except Refused as error:
            return Drawing(None, state=MODEL_ERROR, reason=str(error))
        except (Failed, UserError) as error:
            return Drawing(None, state=INFRA_ERROR, reason=str(error))
        self._compare(image, settings)
        return Drawing(image, revised)

    def _ask(self, sample: Sample, images: Sequence[Image.Image], settings: Mapping[str, Any]) -> tuple[Image.Image, str | None]:
        """The picture, and the prompt as the endpoint has rewritten it."""
        while True:
            fields = self._fields(sample, settings)
            try:
                data, url, revised = self._post(fields, images)
            except _Unwanted as error:
                self._leave_out(str(error))
                continue
            return self._client.get(url, self._fetched) if data is None else data, revised

    def _fields(self, sample: Sample, settings: Mapping[str, Any]) -> dict[str, Any]:
        fields = {"model": self._model, "prompt": sample.item.text, "n": 1, "response_format": "b64_json", "seed": sample.seed}
        if settings.get("height"):
            fields["size"] = f"{settings['width']}x{settings['height']}"
        return {name: value for name, value in fields.items() if name not in self._left_out}

    def _post(self, fields: Mapping[str, Any], images: Sequence[Image.Image]) -> tuple[Image.Image | None, str, str | None]:
        read = self._reader(fields)
        if not images:
            return self._client.post(GENERATIONS, read, json=fields)
        name = "image" if len(images) == 1 else "image[]"
        files = [(name, (f"{number}.png", png(image, {}), "image/png")) for number, image in enumerate(images)]
        return self._client.post(EDITS, read, data={name: str(value) for name, value in fields.items()}, files=files)

    def _reader(self, fields: Mapping[str, Any]) -> Callable[[httpx.Response], tuple[Image.Image | None, str, str | None]]:
        def read(response: httpx.Response) -> tuple[Image.Image | None, str, str | None]:
            """A picture, or where it lies; and the rewritten prompt."""
            tree = tree_of(response.text)  # whole: base64 may hold a short key by chance
            body = tree if isinstance(tree, dict) else {}
            status = status_of(response.status_code, body, "data")
            if not 200 <= status < 300:
                raise _wrong(status, response.headers, self._client.hide(tree), fields)
            row = _row(body.get("data"))
            picture, url = _picture(row)
            if picture is None and not url:
                raise _without(self._client.hide(row))
            revised = self._client.hide(row.get("revised_prompt"))
            return picture, url, revised if isinstance(revised, str) and revised != fields["prompt"] else None

        return read

    def _fetched(self, response: httpx.Response) -> Image.Image:
        if not response.is_success:
            error = fault(response.status_code, response.headers, "")
            raise error if isinstance(error, Again) else Failed(f"its picture could not be fetched ({response.status_code})")
        return _decoded(response.content)

    def _leave_out(self, name: str) -> None:
        with self._lock:
            if name not in self._left_out:
                self._left_out.add(name)
                log.warning("%s: takes no %s, which is left out from now on: %s", self._client.name, name, _OPTIONAL[name])

    def _compare(self, image: Image.Image, settings: Mapping[str, Any]) -> None:
        wanted = (settings.get("width"), settings.get("height"))
        with self._lock:
            if all(wanted) and image.size != wanted and not self._warned:
                self._warned = True
                log.warning("%s: --size %dx%d asked for, %dx%d came", self._client.name, *wanted[::-1], *image.size[::-1])


def load(
    word: str,
    *,
    benchmark: Benchmark,
    concurrency: int = CONCURRENCY,
    timeout: float = TIMEOUT,
    max_calls: int | None = None,
    sleep: Callable[[float], object] | None = None,
) -> EndpointSubject:
    """URL#MODEL. `timeout`: seconds to wait for a picture. `max_calls`: pictures asked for, repeated ones among them."""
    address = parse(word, FORM, (GENERATIONS, EDITS))
    client = Client(
        "endpoint", address, VARIABLES, concurrency=concurrency, timeout=timeout, outage=OUTAGE, budget=Budget(max_calls), sleep=sleep
    )
    identity = {
        # an endpoint shows no weights: another model under the same name cannot be told from it
        "fingerprint": hashlib.sha256(f"{address.base}#{address.model}".encode()).hexdigest(),
        "host": address.host,
        "model": address.model,
        "revision": None,
        "seed": "sent with each prompt; the endpoint may ignore it",
    }
    return EndpointSubject(word, client, address.model, identity, concurrency)


def _wrong(status: int, headers: Mapping[str, str], tree: Any, fields: Mapping[str, Any]) -> Exception:
    prompt = fields["prompt"]  # which may hold any word
    told = said(tree).replace(prompt, "...")
    whole = json.dumps(tree, ensure_ascii=False).replace(json.dumps(prompt, ensure_ascii=False)[1:-1], "")
    if status in (400, 422):
        for name in _OPTIONAL:
            if name in fields and re.search(rf"\b{name}\b", whole):
                return _Unwanted(name)
    if status in (400, 403, 422, 451) and _REFUSED.search(whole):
        return Refused(f"refused ({status}: {told})")
    return fault(status, headers, told)


def _row(rows: Any) -> Mapping[str, Any]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Again("the response holds no list of pictures", empty=True)
    if len(rows) != 1:  # which of them is the answer would be a guess
        raise Again(f"{len(rows)} pictures where one was asked for", empty=True)
    return rows[0]  # type: ignore[no-any-return]


def _picture(row: Mapping[str, Any]) -> tuple[Image.Image | None, str]:
    """The picture, or the address where it lies; neither where there is none."""
    data, url = row.get("b64_json"), row.get("url")
    if isinstance(data, str) and data:
        return _decoded(_bytes(data)), ""
    if not isinstance(url, str) or not url:
        return None, ""
    scheme = url.partition(":")[0].lower()
    if scheme == "data":
        return _decoded(_bytes(url)), ""
    if scheme not in ("http", "https"):
        raise Failed(f"its picture lies at no http or https address, but at {one_line(scheme)[:20]}:")
    return None, url


def _without(row: Mapping[str, Any]) -> Exception:
    """Of an answer without a picture."""
    rest = one_line(str({name: value for name, value in row.items() if name != "revised_prompt" and value}))
    return Refused(f"refused ({rest})") if _REFUSED.search(rest) else Again("neither b64_json nor url in the response", empty=True)


def _bytes(text: str) -> bytes:
    """Base64, alone or as a data: address."""
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text)
    except (binascii.Error, ValueError) as error:
        raise Again("its picture is no base64", empty=True) from error


def _decoded(data: bytes) -> Image.Image:
    try:
        return decoded(data)
    except Unreadable as error:
        raise Again(f"its picture cannot be read ({error})", empty=True) from error
