"""DreamBench's prompts: every subject in 25 scenes, one list for objects and one for live subjects.

The official prompts name a subject by a rare word that a model was tuned on ("a sks backpack in the snow"). Here the subject comes as a
picture, so the word is left out ("a backpack in the snow"), in what is drawn and in what CLIP compares.
Prompt i comes with picture i modulo the subject's pictures, so that no one view decides; what is drawn is compared with all of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.reading import refuse_unknown
from metabridge.eval import store
from metabridge.eval.items import Item

FILE, PICTURES = "dataset/prompts_and_classes.txt", "dataset"
LIVE = ("cat", "dog")  # classes that the second list is for
ENDINGS = (".jpg", ".jpeg", ".png")
_PROMPT = re.compile(r"""^(['"])(?P<text>.*\{0\} \{1\}.*)\1\.format\(unique_token, class_token\),?$""")


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    refuse_unknown(options, [], "prompts")
    if data is None:
        raise UserError(f"dreambench: no data folder given; it holds {FILE} and the subjects' pictures")
    subjects, prompts = _read(data / FILE)
    real = {subject: _pictures(data, subject) for subject in subjects}
    if lacking := [subject for subject, files in real.items() if not files]:
        raise UserError(
            f"{data / PICTURES}: no pictures of {len(lacking)} of {len(subjects)} subjects: {', '.join(lacking[:3])}"
            f"{' ...' if len(lacking) > 3 else ''}; put them there as {PICTURES}/{lacking[0]}/00.jpg, from a clone of google/dreambooth"
        )
    items: list[Item] = []
    for subject, word in subjects.items():
        files = real[subject]
        want = {"real": files, "sha256": _hash([data / file for file in files])}
        for place, prompt in enumerate(prompts[word in LIVE]):
            text = prompt.replace("{0} ", "").replace("{1}", word)
            items.append(Item(len(items), f"{place:02d}", subject, text, want, (files[place % len(files)],)))
    return items


def _read(path: Path) -> tuple[dict[str, str], tuple[list[str], list[str]]]:
    """Subject -> class; the prompts of objects and those of live subjects."""
    lines = store.read_text(path).splitlines()
    subjects: dict[str, str] = {}
    prompts: dict[str, list[str]] = {"Object Prompts": [], "Live Subject Prompts": []}
    section = ""
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line in ("Classes", *prompts):
            section = line
        elif not line or line in ("Prompts", "subject_name,class", "prompt_list = [", "]"):
            continue
        elif section == "Classes" and (pair := re.fullmatch(r"(\w+),([\w ]+)", line)):
            subjects[pair[1]] = pair[2]
        elif section in prompts and (prompt := _PROMPT.match(line)):
            prompts[section].append(prompt["text"])
        else:
            raise UserError(f"{path}: line {number}: {line[:60]!r} is neither a subject with its class nor a prompt; fetch the data again")
    if not subjects or not all(prompts.values()):
        raise UserError(
            f"{path}: {len(subjects)} subjects, {' and '.join(str(len(p)) for p in prompts.values())} prompts; fetch the data again"
        )
    return subjects, (prompts["Object Prompts"], prompts["Live Subject Prompts"])


def _pictures(data: Path, subject: str) -> list[str]:
    folder = data / PICTURES / subject
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS) if folder.is_dir() else []
    if empty := next((path for path in files if not path.stat().st_size), None):
        raise UserError(f"{empty}: a picture of 0 bytes; put the whole one there")
    return [path.relative_to(data).as_posix() for path in files]


def _hash(files: Sequence[Path]) -> str:
    """Of the pictures themselves, so that other ones under the same names are other data."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
