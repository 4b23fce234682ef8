"""Pictures that somebody else drew: found in three layouts, kept to the pixel, and never guessed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks, plan, store
from metabridge.eval.generate import DRAWN, drawn, generate
from metabridge.eval.items import INFRA_ERROR, MODEL_ERROR, OK
from metabridge.eval.subjects import pictures
from tests.eval.oracle import CODE, Oracle
from tests.eval.small_benchmark import NOTHING, PROMPTS, planned, small, tree

KEYS = [(group, ident, k) for group, ident in PROMPTS for k in range(2)]


def noise(seed: int, mode: str = "RGB", side: int = 6) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side + 2, *channels), dtype=np.uint8))


def filled(folder: Path, form: str = "{id}-{k}.png") -> dict[tuple[str, str, int], Image.Image]:
    """A picture of noise for each prompt, twice."""
    drawn = {}
    for number, (group, ident, k) in enumerate(KEYS):
        path = folder / form.format(group=group, id=ident, k=k)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn[group, ident, k] = noise(number)
        drawn[group, ident, k].save(path, lossless=True)
    return drawn


def evaluate(source: Path, out: Path, **options: Any) -> tuple[plan.Plan, dict[str, dict[str, Any]]]:
    benchmark = small(**options)
    subject = pictures.load(str(source), benchmark=benchmark)
    made = plan.save(planned(benchmark, subject), out)
    generate(made, out, subject)
    return made, drawn(out)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("form", ["{id}-{k}.png", "{id}-{k}.WEBP", "{group}/{id}-{k}.png", "images/bridge/{group}/{id}-{k}.png"])
def test_layouts(form: str, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    there = filled(source, form)
    made, records = evaluate(source, out)
    assert {record["state"] for record in records.values()} == {OK}
    for sample in made.samples():
        assert (pixels(out / sample.file) == np.asarray(there[sample.item.group, sample.item.id, sample.k])).all()


def test_a_name_without_number_is_the_first_picture(tmp_path: Path) -> None:
    for number, (_, ident) in enumerate(PROMPTS):
        noise(number).save(tmp_path / f"{ident}.png")
    subject = pictures.load(str(tmp_path), benchmark=small(images=1))
    samples = planned(small(images=1), subject).samples()
    images = [drawing.image for drawing in subject.draw("bridge", samples, [()] * 4, {})]
    assert all(image is not None and (np.asarray(image) == np.asarray(noise(n))).all() for n, image in enumerate(images))


def test_an_evaluation_folder_of_ours_says_who_drew(tmp_path: Path) -> None:
    """Its failed pictures stay the model's failures: they are not missing."""
    flatland, oracle = benchmarks.load("flatland"), Oracle()
    first = tmp_path / "first"
    made = plan.save(plan.make(flatland, oracle.subject.identity, {}, CODE, limit={"all": 1}, images=1, rows=["bridge", "native"]), first)
    generate(made, first, oracle.subject)
    sample = next(s for s in made.samples() if s.row == "bridge")
    (first / sample.file).unlink()
    store.append(first / DRAWN, [{**drawn(first)[sample.key], "state": MODEL_ERROR, "reason": "NaN", "sha256": None}])

    subject = pictures.load(str(first), benchmark=flatland)
    assert subject.identity["drawn_by"] == dict(oracle.subject.identity)
    second = tmp_path / "second"
    again = plan.save(plan.make(flatland, subject.identity, {}, CODE, limit={"all": 1}, images=1, rows=["bridge"]), second)
    generate(again, second, subject)
    for one in again.samples():
        if one.key == sample.key:
            assert (drawn(second)[one.key]["state"], drawn(second)[one.key]["reason"]) == (MODEL_ERROR, "NaN")
        else:
            assert (pixels(second / one.file) == pixels(first / one.file)).all()
    # a copy of a copy was drawn by whom the first was
    assert pictures.load(str(second), benchmark=flatland).identity["drawn_by"] == dict(oracle.subject.identity)
    # and another row is a folder of its own
    native = pictures.load(str(first / "images" / "native"), benchmark=flatland)
    assert "drawn_by" not in native.identity and native.identity["fingerprint"] != subject.identity["fingerprint"]


def test_pictures_of_other_prompts_are_refused(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    filled(source)
    evaluate(source, out)
    made = json.loads((out / "plan.json").read_text())
    made["items"][1]["text"] = "a grey dog"
    (out / "plan.json").write_text(json.dumps(made))
    with pytest.raises(UserError) as caught:
        pictures.load(str(out), benchmark=small())
    assert str(caught.value) == (
        f"{out}/plan.json: 'a grey dog' is not prompt dog of small, 'a blue dog'; pictures of other prompts are another benchmark"
    )


@pytest.fixture
def geneval_data(tmp_path: Path) -> Path:
    rows = [
        {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"},
        {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "a photo of two dogs"},
    ]
    data = tmp_path / "data"
    data.mkdir()
    (data / "object_names.txt").write_text("cat\ndog\n")
    (data / "evaluation_metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


def test_official_layout(tmp_path: Path, geneval_data: Path) -> None:
    geneval = benchmarks.load("geneval")
    items, folder = geneval.items(geneval_data), tmp_path / "source"
    rows = []
    for number, item in enumerate(items):
        for k in range(2):
            noise(10 * number + k).save(tmp_path / f"{number}{k}.png")
            rows.append((item, k, tmp_path / f"{number}{k}.png"))
    geneval.layout_module().export(rows, folder)
    subject = pictures.load(str(folder), benchmark=geneval, data=geneval_data)
    samples = plan.make(geneval, subject.identity, {}, CODE, images=3, data=geneval_data).samples()
    drawings = subject.draw("bridge", samples, [()] * 6, {})
    for sample, drawing in zip(samples, drawings, strict=True):
        if sample.k == 2:
            where = f"{folder}: no such picture, 2 of {sample.item.group}/{sample.item.id} in the official layout"
            assert (drawing.state, drawing.reason) == (INFRA_ERROR, where)
        else:
            assert drawing.image is not None
            assert (np.asarray(drawing.image) == np.asarray(noise(10 * sample.item.number + sample.k))).all()


def test_missing_and_damaged_pictures_leave_the_run_incomplete(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    filled(source)
    (source / "cat-0.png").unlink()
    (source / "cat-1.png").write_bytes(b"")
    whole = (source / "dog-0.png").read_bytes()
    (source / "dog-0.png").write_bytes(whole[: len(whole) - 40])
    (source / "dog-1.png").write_bytes(b"<html>not found</html>")
    _, records = evaluate(source, out)
    reasons = {key: record["reason"] for key, record in records.items() if record["state"] == INFRA_ERROR}
    truncated = reasons.pop("bridge/animals/dog-0")
    assert truncated.startswith(f"{source}/dog-0.png: ") and "truncated" in truncated
    assert reasons == {
        "bridge/animals/cat-0": f"{source}/cat-0.png: no such picture",
        "bridge/animals/cat-1": f"{source}/cat-1.png: 0 bytes",
        "bridge/animals/dog-1": f"{source}/dog-1.png: no picture in its 22 bytes",
    }
    assert sum(record["state"] == OK for record in records.values()) == 4


def test_a_whole_chunk_without_pictures_does_not_end_the_run(tmp_path: Path) -> None:
    """Sixty-four pictures, of which the second half is there."""
    for k in range(16):
        noise(k).save(tmp_path / f"oak-{k}.png")
        noise(k).save(tmp_path / f"elm-{k}.png")
    made, records = evaluate(tmp_path, tmp_path / "out", images=16)
    assert [len(chunk) for chunk in made.chunks()] == [32, 32]
    assert [records[sample.key]["state"] for sample in made.samples()] == [INFRA_ERROR] * 32 + [OK] * 32


def resumed(source: Path, out: Path, file: Path) -> plan.Plan:
    """The same command again, as the command line does it."""
    subject = pictures.load(str(source), benchmark=small())
    made = plan.save(planned(small(), subject, file), out, lambda: subject.holds(drawn(out)))
    generate(made, out, subject)
    return made


def test_a_changed_picture_is_another_subject(tmp_path: Path) -> None:
    source, out, file = tmp_path / "source", tmp_path / "out", tmp_path / "small.yaml"
    file.write_text(json.dumps(tree()))  # which is YAML, too
    filled(source)
    before = resumed(source, out, file).identity["model"]["fingerprint"]
    noise(99).save(source / "unrelated.png")
    shutil.copytree(source, tmp_path / "moved")
    assert pictures.load(str(tmp_path / "moved"), benchmark=small()).identity["fingerprint"] == before
    noise(99).save(source / "cat-1.png")
    after = pictures.load(str(source), benchmark=small())
    assert after.identity["fingerprint"] != before
    with pytest.raises(UserError, match=f"holds another evaluation: its images fingerprint is {before[:16]}, asked for is "):
        resumed(source, out, file)
    (source / "cat-1.png").unlink()
    with pytest.raises(UserError, match=f"its images fingerprint is {before[:16]}, asked for is "):  # one that is gone is no missing one
        resumed(source, out, file)
    assert pictures.load(str(source), benchmark=small()).identity["fingerprint"] not in (before, after.identity["fingerprint"])


def test_pictures_that_come_later_are_taken_up(tmp_path: Path) -> None:
    source, out, file = tmp_path / "source", tmp_path / "out", tmp_path / "small.yaml"
    file.write_text(json.dumps(tree()))
    there = filled(source)
    (source / "cat-1.png").rename(tmp_path / "kept.png")
    (source / "dog-0.png").write_bytes(b"")
    first = resumed(source, out, file).identity["model"]["fingerprint"]
    assert Counter(record["state"] for record in drawn(out).values()) == {OK: 6, INFRA_ERROR: 2}
    (tmp_path / "kept.png").rename(source / "cat-1.png")
    there["animals", "dog", 0].save(source / "dog-0.png")
    second = resumed(source, out, file)
    assert {record["state"] for record in drawn(out).values()} == {OK}
    assert (pixels(out / "images/bridge/animals/cat-1.png") == np.asarray(there["animals", "cat", 1])).all()
    assert second.identity["model"]["fingerprint"] == plan.load(out).identity["model"]["fingerprint"] != first
    noise(99).save(source / "cat-1.png")  # which has been used by now
    with pytest.raises(UserError, match="holds another evaluation: its images fingerprint is "):
        resumed(source, out, file)


def as_bytes(image: Image.Image, tmp_path: Path, name: str = "x.png", **options: Any) -> bytes:
    image.save(tmp_path / name, **options)
    return (tmp_path / name).read_bytes()


def test_pixels_are_kept(tmp_path: Path) -> None:
    """Every mode that a PNG, JPEG or WebP can have."""
    color = noise(0)
    palette = color.quantize(16)
    grey = noise(1, "L")
    clear = noise(2, "RGBA")
    opaque = Image.fromarray(np.dstack([np.asarray(color), np.full((6, 8), 255, np.uint8)]))
    for image, expected in [
        (color, np.asarray(color)),
        (palette, np.asarray(palette.convert("RGB"))),
        (grey, np.stack([np.asarray(grey)] * 3, axis=2)),
        (opaque, np.asarray(color)),
        (noise(3, "L").convert("1"), np.stack([np.asarray(noise(3, "L").convert("1")) * np.uint8(255)] * 3, axis=2)),
    ]:
        found = pictures.decoded(as_bytes(image, tmp_path))
        assert found.mode == "RGB" and (np.asarray(found) == expected).all()
    # c = alpha c + (1 - alpha) white
    values = np.asarray(clear).astype(float)
    alpha = values[..., 3:] / 255
    on_white = alpha * values[..., :3] + (1 - alpha) * 255
    assert np.abs(np.asarray(pictures.decoded(as_bytes(clear, tmp_path))) - on_white).max() <= 1
    assert np.abs(np.asarray(pictures.decoded(as_bytes(clear, tmp_path, "x.webp", lossless=True, exact=True))) - on_white).max() <= 1


def test_a_transparent_color_of_a_palette_shows_white(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    found = pictures.decoded(as_bytes(palette, tmp_path, transparency=0))
    assert [found.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (200, 0, 0)]


def test_sixteen_bits_of_grey_are_rounded(tmp_path: Path) -> None:
    values = np.array([[0, 257, 128 * 257, 65535, 300, 400]], dtype=np.uint16)
    found = pictures.decoded(as_bytes(Image.fromarray(values), tmp_path))
    assert np.asarray(found)[0, :, 0].tolist() == [0, 1, 128, 255, 1, 2]


def test_exif_turns_a_picture_upright(tmp_path: Path) -> None:
    image = noise(5)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    found = pictures.decoded(as_bytes(image, tmp_path, exif=exif))
    assert found.size == (image.height, image.width)
    assert (np.asarray(found) == np.rot90(np.asarray(image), -1)).all()


def refused(call: Any) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_refused(tmp_path: Path, geneval_data: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert (
        refused(lambda: pictures.load(str(nowhere), benchmark=small()))
        == f"images:{nowhere}: no such folder; give the one that holds the pictures"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(lambda: pictures.load(str(empty), benchmark=small())) == (
        f"images:{empty}: no picture of small there; looked for images/bridge/animals/cat-0.png, as in an evaluation folder; "
        "cat-0.png, cat.png, animals/cat-0.png (or .jpg, .jpeg, .webp)"
    )
    assert refused(lambda: pictures.load(str(empty), benchmark=benchmarks.load("geneval"), data=geneval_data)) == (
        f"images:{empty}: no picture of geneval there; looked for images/bridge/single_object/00000-0.png, as in an evaluation folder; "
        f"the official layout ({empty}: no picture of 2 prompts there; give one that holds 00000/metadata.jsonl, "
        "00000/samples/0000.png and so on); 00000-0.png, 00000.png, single_object/00000-0.png (or .jpg, .jpeg, .webp)"
    )
    source = tmp_path / "source"
    filled(source)
    subject = pictures.load(str(source), benchmark=small())
    for name, option in [("num_inference_steps", "--steps"), ("guidance_scale", "--guidance"), ("height", "--size")]:
        line = refused(lambda name=name: subject.generation({**NOTHING, name: 8}))
        assert line == f"{option}: has no effect on a folder of pictures, which are drawn already; leave it out"
    made = plan.make(small(), subject.identity, {}, CODE, rows=["think"])
    line = refused(lambda: subject.draw("think", made.samples(), [()] * 8, {}))
    assert line == "--rows think: only a bridge draws in several ways; leave it out"
    noise(0).save(source / "cat-0.jpg")
    assert refused(lambda: pictures.load(str(source), benchmark=small())) == (
        f"{source}/cat-0.png: the picture cat-0.jpg a second time; remove one of them"
    )


def test_an_id_of_two_groups_needs_the_group(tmp_path: Path) -> None:
    """cat-0.png could be of either."""
    noise(0).save(tmp_path / "same-0.png")
    assert "; looked for images/bridge/animals/same-0.png, as in an evaluation folder; animals/same-0.png (or .jpg" in refused(
        lambda: pictures.load(str(tmp_path), benchmark=small(same=True))
    )
