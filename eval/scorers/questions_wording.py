"""How a judge is asked: in our own words, or in those of a user's file.

The file is the text of the question, with {question} in it and {prompt} (what was to be drawn) if wanted; what stands above a line of ---
is the system text.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.judges import Message, Request


@dataclass(frozen=True)
class Wording:
    user: str
    system: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"{self.system}\n---\n{self.user}".encode()).hexdigest()

    def request(self, image: Image.Image, prompt: str, question: str, max_tokens: int) -> Request:
        filled = {"prompt": prompt, "question": question}
        system, user = (re.sub(r"\{(prompt|question)\}", lambda place: filled[place[1]], text) for text in (self.system, self.user))
        first = (Message("system", (system,)),) if system else ()
        return Request((*first, Message("user", (image, user))), max_tokens=max_tokens)


# in lower case, as the official scorers want it: so that compat has something to read
_SYSTEM = """You look at one picture and answer one question about it.
Go by what can be seen in the picture, not by what is likely or what was wanted.
Say yes only if the picture shows that yes is right. Where it does not, or it cannot be made out, say no.
Answer with one word in lower case, yes or no."""
OWN = {
    "question": Wording("{question}\nAnswer with one word in lower case, yes or no.", _SYSTEM),
    "prompt_question": Wording('Prompt: "{prompt}"\nQuestion: "{question}"', _SYSTEM),
}


def read(file: str) -> Wording:
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"scoring.template: {path}: cannot be read ({reason}); give a text file with {{question}} in it") from error
    *system, user = (part.strip() for part in re.split(r"^---[ \t]*$", text, maxsplit=1, flags=re.MULTILINE))
    if "{question}" not in user:
        raise UserError(f"scoring.template: {path}: no {{question}} in the user's part of it; put it where the question belongs")
    return Wording(user, *system)
