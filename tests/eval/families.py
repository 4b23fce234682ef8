"""Small benchmarks of every family of scorers, whose prompts Flatland's bridge can draw, and a judge that looks with Flatland's checker.

Each is the shipped YAML file with prompts of our own in the benchmark's own format, so that all of the way is the real one.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from metabridge.eval.detect import Detection
from metabridge.eval.detect import flatland as checker
from metabridge.eval.items import Services
from metabridge.eval.judges.canary import CANARIES
from metabridge.training.flatland import world
from metabridge.training.flatland.world import COLORS, SHAPES
from tests.eval.judge_server import Reply, Seen, says

ROOT = Path(__file__).parents[2]
RIGHT = ("a red star", "a blue circle", "a green heart", "a yellow square", "a purple triangle", "a red circle")


def benchmark(folder: Path, name: str, **changes: Any) -> Path:
    """The shipped file of `name` with these keys in the place of its own; its data lies in `folder`/data/<name>."""
    tree = yaml.safe_load((ROOT / "eval/benchmarks" / f"{name}.yaml").read_text(encoding="utf-8"))
    tree |= changes
    tree["data"] = {"folder": name, "licence": "our own", "by_hand": "the test writes it"}
    path = folder / f"small_{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    (folder / "data" / name).mkdir(parents=True, exist_ok=True)
    return path


def geneval(folder: Path) -> Path:
    """Detector and color reader are Flatland's checker; two prompts of each tag, the second one of which asks for what is not drawn."""
    data = folder / "data" / "geneval"
    scoring = {"scorer": "geneval", "detector": __name__, "colors": __name__}
    path = benchmark(folder, "geneval", scoring=scoring, models={}, prompts={"reader": "geneval", "count": 8}, images=1)
    (data / "object_names.txt").write_text("\n".join(SHAPES) + "\n")
    star, circle = {"class": "star", "count": 1}, {"class": "circle", "count": 1}
    rows = [
        {"tag": "single_object", "include": [star], "prompt": "a red star"},
        {"tag": "two_object", "include": [star, circle], "prompt": "a red star and a blue circle"},
        {"tag": "counting", "include": [{**star, "count": 3}], "exclude": [{**star, "count": 4}], "prompt": "three stars"},
        {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "blue"}], "prompt": "a blue circle"},
        {
            "tag": "position",
            "include": [{"class": "circle", "count": 1}, {"class": "star", "count": 1, "position": ["left of", 0]}],
            "prompt": "a red star left of a blue circle",
        },
        {
            "tag": "color_attr",
            "include": [{"class": "circle", "count": 1, "color": "green"}, {"class": "star", "count": 1, "color": "yellow"}],
            "prompt": "a green circle and a yellow star",
        },
        # the prompt is drawn rightly and is not what the rules ask for
        {"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": "a blue circle"},
        {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}], "prompt": "a blue circle"},
    ]  # fmt: skip
    (data / "evaluation_metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def longtext(folder: Path, prompts: int = 2) -> Path:
    path = benchmark(folder, "longtext_en")
    rows = [
        {"prompt_id": number, "category": category, "length": "short", "prompt": RIGHT[number % len(RIGHT)], "text": ["ONE TWO", "THREE"]}
        for number, category in enumerate(_groups(path) * prompts)
    ]
    (folder / "data/longtext_en/text_prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def corebench(folder: Path) -> Path:
    path = benchmark(folder, "t2i_corebench")
    for number, dimension in enumerate(_groups(path)):
        prompt = RIGHT[number % len(RIGHT)]
        color, shape = prompt.split()[1:]
        checklist = [
            {"question": f"Is there a {color} {shape}?", "tags": ["attribute"]},
            {"question": f"Is there a {shape}?", "tags": ["entity"]},
        ]
        row = {
            "Main Class": "x",
            "Sub Class": "y",
            "Prompt": prompt,
            "Checklist": [*checklist, {"question": "Is there a black dog?", "tags": ["entity"]}],
        }
        (folder / f"data/t2i_corebench/{dimension}.json").write_text(json.dumps({f"{dimension}-001": row}))
    return path


def wise(folder: Path, name: str = "wise", prompts: Sequence[str] = RIGHT) -> Path:
    """What is to be seen is the explanation; the prompt may say it in other words."""
    path = benchmark(folder, name)
    tree = yaml.safe_load(path.read_text())["prompts"]
    categories = {
        "culture": "Cultural knowledge",
        "time": "time",
        "space": "Space",
        "biology": "Biology",
        "physics": "Physical Knowledge",
        "chemistry": "Chemistry",
    }
    rows = [
        {
            "prompt_id": first,
            "Prompt": prompts[number],
            "Explanation": RIGHT[number],
            "Category": categories[group],
            "Subcategory": "shapes",
        }
        for number, (group, (first, _)) in enumerate(tree["ids"].items())
    ]
    for number, file in enumerate(tree["files"]):
        (folder / "data" / name / file).write_text(json.dumps(rows if number == 0 else []))
    return path


def imgedit(folder: Path) -> Path:
    """An edit of each type, of a picture of a blue square; the judge's texts stand in the data, as officially."""
    path = benchmark(folder, "imgedit")
    data = folder / "data/imgedit"
    sources = data / "Benchmark/singleturn"
    sources.mkdir(parents=True, exist_ok=True)
    world.draw(world.arrange(random.Random(0), [("blue", "square")])).save(sources / "square.png")
    rows = {str(n): {"id": "square.png", "prompt": RIGHT[n % 6], "edit_type": kind} for n, kind in enumerate(_groups(path))}
    (data / "basic_edit.json").write_text(json.dumps(rows))
    (data / "prompts.json").write_text(
        json.dumps({kind: "Rate the edit <edit_prompt> from 1 to 5, three times." for kind in _groups(path)})
    )
    return path


def fid(folder: Path) -> Path:
    """Twelve prompts of the bridge against twelve renderings; as MJHQ lays them out."""
    path = benchmark(folder, "mjhq_fid", scoring={"scorer": "distribution", "resize": "none", "measures": ["clip_score"]})
    data = folder / "data/mjhq_fid"
    rows = {}
    for number in range(12):
        category = _groups(path)[number % 2]
        rows[f"p{number}"] = {"category": category, "prompt": RIGHT[number % 6]}
        picture = data / "mjhq30k_imgs" / category / f"p{number}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        color, shape = RIGHT[number % 6].split()[1:]
        world.draw(world.arrange(random.Random(number), [(color, shape)])).save(picture)
    (data / "meta_data.json").write_text(json.dumps(rows))
    return path


def _groups(path: Path) -> list[str]:
    return list(yaml.safe_load(path.read_text())["groups"])


# The detector and the color reader of small_geneval.yaml: what Flatland's checker sees.


class Checked:
    identity: Mapping[str, Any] = {"model": "flatland's checker"}

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        return [
            [Detection(one.shape, 0.99, tuple(map(float, one.box)), self._mask(image, one.box)) for one in checker.detect(image)]
            for image in images
        ]

    def _mask(self, image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
        mask = np.zeros((image.height, image.width), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        return mask

    def colors(self, image: Image.Image, found: list[Detection]) -> list[str]:
        seen = {tuple(map(float, one.box)): one.color for one in checker.detect(image)}
        return [seen[one.box] for one in found]


def load(services: Services) -> Checked:
    return Checked()


# The judge: an endpoint that looks at Flatland's pictures with the checker.


def judge(rubric: Callable[[bool], str] = lambda right: "") -> Callable[[Seen], Reply]:
    """`rubric`: what it says of a picture whose prompt is drawn rightly, or not."""
    known = {(c.question, np.asarray(c.picture()).tobytes()): c.answer for c in CANARIES}

    def answer(seen: Seen) -> Reply:
        image = seen.images[-1].convert("RGB")
        for (question, pixels), right in known.items():
            if question in seen.text and pixels == np.asarray(image).tobytes():
                return says("yes" if right else "no")
        objects = [(one.color, one.shape) for one in checker.detect(image)]
        asked = re.search(r"Is there a (?:(\w+) )?(\w+)\?", seen.text)
        if asked:
            return says("yes" if any(asked[2] == shape and asked[1] in (None, color) for color, shape in objects) else "no")
        wanted = re.search(rf"a ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})", seen.text)
        return says(rubric(wanted is not None and wanted.groups() in objects))

    return answer
