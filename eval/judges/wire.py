"""The chat completions format: a request into a body, a response into an answer or into what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from metabridge.eval.calls import Again, Stop, one_line
from metabridge.eval.http_client import fault, said, status_of, tree_of
from metabridge.eval.judges import JudgeError, Message, Request
from metabridge.eval.judges.answers import Answer, without_thought
from metabridge.eval.judges.pictures import data_uri, fitted

_FILTERED = re.compile(r"content.?(?:filter|policy|management|inspection)|data.?inspection|moderation|flagged|responsible.?ai|safety", re.I)
_FILTER_FINISH = {"content_filter", "safety", "prohibited_content", "sensitive"}
_DATED = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{2}-\d{2}|\d{3,4}|\d{6}|\d{8})")
_THOUGHTS = ("reasoning_content", "reasoning")  # where servers put what a model thinks, if not into the text


def body(request: Request, model: str) -> dict[str, Any]:
    fields = {
        "model": model,
        "messages": [_message(message, request.max_side) for message in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        **request.extra,
    }
    return {name: value for name, value in fields.items() if value is not None}


def read(status: int, headers: Mapping[str, str], text: str, asked: str, hide: Callable[[Any], Any]) -> Answer:
    """The answer, by the model that was `asked`. `hide` takes secrets out of what the server says. Raises Again, Stop or JudgeError."""
    tree = tree_of(text, hide)
    fields = tree if isinstance(tree, dict) else {}
    status = status_of(status, fields, "choices")
    if not 200 <= status < 300:
        told = said(tree)
        if status in (400, 403, 422) and _FILTERED.search(told):
            raise JudgeError(f"content filter ({status}: {told})")
        raise fault(status, headers, told, also={425})
    model = fields.get("model") if isinstance(fields.get("model"), str) else None
    choice = _choice(fields)
    if model and not same_model(hide(asked), model):
        raise Stop(f"{asked} was asked, but {one_line(model)} answered; name the model as the endpoint does")
    return Answer(_content(choice), model, _usage(fields))


def same_model(asked: str, answered: str) -> bool:
    """Whether it is the model asked, or a dated version of it; owners are compared where both names have one."""
    asked, answered = asked.lower(), answered.lower()
    if not ("/" in asked and "/" in answered):
        asked, answered = asked.rpartition("/")[2], answered.rpartition("/")[2]
    name = asked.removesuffix("-latest")
    return answered == asked or (answered.startswith(name) and bool(_DATED.fullmatch(answered[len(name) :])))


def _message(message: Message, max_side: int | None) -> dict[str, Any]:
    if len(message.content) == 1 and isinstance(message.content[0], str):  # some servers take a system message only so
        return {"role": message.role, "content": message.content[0]}
    return {"role": message.role, "content": [_part(part, max_side) for part in message.content]}


def _part(part: str | Image.Image, max_side: int | None) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": data_uri(fitted(part, max_side))}}


def _choice(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = fields.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Again("the response is no chat completion")
    if len(choices) > 1:  # which of them is the answer would be a guess
        raise Again(f"{len(choices)} answers where one was asked for")
    if not isinstance(choices[0], dict) or not isinstance(choices[0].get("message"), dict):
        raise Again("the response is no chat completion")
    return choices[0]


def _content(choice: Mapping[str, Any]) -> str:
    message, finish = choice["message"], str(choice.get("finish_reason") or "").lower()
    if refusal := message.get("refusal"):
        raise JudgeError(f"refused to answer ({one_line(str(refusal))})")
    if finish in _FILTER_FINISH:
        raise JudgeError(f"content filter (finish_reason {finish})")
    if finish == "length":
        raise JudgeError("the answer was cut off at max_tokens (finish_reason length); allow more of them, or switch thinking off")
    if finish == "error":
        raise Again("the answer broke off (finish_reason error)", away=True)
    text = _text(message.get("content")).encode(errors="replace").decode()  # JSON can hold half a sign, and no file can
    if answer := without_thought(text):
        return answer
    thought = bool(text.strip()) or any(message.get(name) for name in _THOUGHTS)
    raise Again("a thought without an answer" if thought else "empty answer", empty=True)


def _text(content: Any) -> str:
    """Content is text, or parts with text in them."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type", "text") == "text"]
        return "".join(text for text in texts if isinstance(text, str))
    if content is None or isinstance(content, str):
        return content or ""
    raise Again("the response is no chat completion")


def _usage(fields: Mapping[str, Any]) -> dict[str, int]:
    usage = fields.get("usage")
    if not isinstance(usage, dict):
        return {}
    return {name: usage[name] for name in ("prompt_tokens", "completion_tokens") if isinstance(usage.get(name), int)}
