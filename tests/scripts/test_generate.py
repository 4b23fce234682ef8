"""`metabridge generate`: lists of prompts, JSON, pictures drawn again bit for bit, and the one line that an error is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from PIL import Image

from metabridge.adapters import load_pipeline
from metabridge.bridge.errors import UserError
from metabridge.bridge.files import png
from metabridge.scripts.generate_asked import Options, jobs_of
from tests.tiny import make_brain

FAST = ("--steps", 1)
ROWS = [
    {"prompt": "a red cat", "images": ["red.png"], "thought": "a cat"},
    {"prompt": "a dog", "seed": 2**63 - 1},
    {"prompt": "ein größerer Vogel ★", "images": ["blue.png", "red.png"]},
    {"prompt": "a cow"},
    {"prompt": "a mat", "seed": 7},
]


@pytest.fixture
def pictures(metabridge: Command) -> None:
    Path("list").mkdir()
    for folder in ("", "list/"):
        Image.new("RGB", (64, 64), "red").save(f"{folder}red.png")
        Image.effect_noise((40, 60), 90).save(f"{folder}blue.png")
    Path("list/rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")


def pixels(name: object) -> Any:
    with Image.open(str(name)) as image:
        return np.asarray(image.convert("RGB"), dtype=int)


def record(name: object) -> Any:
    with Image.open(str(name)) as image:
        return json.loads(image.info["metabridge"])


@pytest.mark.parametrize(
    ("words", "count", "which"),
    [
        (["a red cat", "-n", 4, "--seed", 5], 4, (2,)),
        (["a red cat", "-n", 3, "--batch-size", 2, "--image", "red.png", "--image", "blue.png", "--height", 32, "--width", 96], 3, (1, 2)),
        (["a red cat", "a dog", "--think", "-n", 2, "--negative", "a cow"], 4, (3,)),
        (["a red cat", "--think", "--think-mode", "rewrite"], 1, (0,)),
        (["a red cat", "a dog", "--think", "--think-mode", "auto", "--image", "red.png", "--image-guidance", 1.5], 2, (1,)),
        (["a red cat", "--thought", "a dog", "--image", "blue.png", "--preserve", 0.3], 1, (0,)),
        (["--prompts", "list/rows.jsonl", "--batch-size", 2, "--think"], 5, (1, 4)),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_again_gives_the_same_bits(
    metabridge: Command, pictures: None, trained: Path, words: list[object], count: int, which: tuple[int, ...]
) -> None:
    code, _, err = metabridge("generate", trained, *words, "--steps", 2)
    assert code == 0, err
    names = [f"out-{k}.png" for k in range(count)] if count > 1 else ["out.png"]
    assert sorted(path.name for path in Path().glob("out*.png")) == names
    for k in which:
        code, out, err = metabridge("generate", "--again", names[k], "-o", "new.png")
        assert (code, out.splitlines()[-1]) == (0, "new.png") and "differ" not in err
        assert Path("new.png").read_bytes() == Path(names[k]).read_bytes()


def test_a_thought_is_drawn_as_the_pipeline_draws_it(metabridge: Command) -> None:
    """It is read from its words, not kept from its writing: the same picture, but for the last bits."""
    assert metabridge("generate", "flatland", "a square with the color of a ripe banana", "--think", "--steps", 2)[0] == 0
    pipeline = load_pipeline("flatland")
    output = pipeline("a square with the color of a ripe banana", think=True, num_inference_steps=2, seeds=[0])
    assert np.abs(np.asarray(output.images[0], dtype=int) - pixels("out.png")).max() <= 1
    with Image.open("out.png") as image:
        assert image.info["thought"] == output.thoughts[0]


def test_again_draws_what_was_drawn_with_it(metabridge: Command, trained: Path) -> None:
    """Its chunk and no more: the rest of the list is not in it."""
    prompts = ["a red cat", "a dog", "a cow", "a mat", "a bird"]
    assert metabridge("generate", trained, *prompts, "--batch-size", 2, *FAST)[0] == 0
    chunk = record("out-3.png")["chunk"]
    assert [job["prompt"] for job in chunk["jobs"]] == prompts[2:4] and record("out-3.png")["index"] == 1
    assert chunk["seeds"] == [0, 0] and chunk["batch_size"] == 2 and chunk["each"] == 1
    assert metabridge("generate", "--again", "out-3.png")[1].splitlines()[-1] == "out-3-again.png"


def test_json(metabridge: Command, pictures: None, trained: Path) -> None:
    code, out, err = metabridge("generate", trained, "--prompts", "list/rows.jsonl", "-n", 2, "--seed", 3, "--json", *FAST)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and err.startswith("bridge: ")
    assert [row["path"] for row in rows] == [f"out-{k}.png" for k in range(10)]
    assert [row["prompt"] for row in rows[::2]] == [row["prompt"] for row in ROWS]
    assert [row["seed"] for row in rows] == [3, 4, 2**63 - 1, 2**63, 3, 4, 3, 4, 7, 8]
    assert [row["thought"] for row in rows[::2]] == ["a cat", None, None, None, None]
    assert [row["images"] for row in rows[::2]] == [["list/red.png"], [], ["list/blue.png", "list/red.png"], [], []]
    assert all(set(row) == {"path", "prompt", "thought", "seed", "images", "bridge", "settings"} for row in rows)
    assert rows[0]["settings"]["num_inference_steps"] == 1 and rows[0]["bridge"] == str(trained)


def test_a_row_of_a_list_is_that_prompt_alone(metabridge: Command, pictures: None, trained: Path) -> None:
    Path("prompts.txt").write_text("\ufeffa red cat\r\n\na dog\n", encoding="utf-8")
    assert metabridge("generate", trained, "--prompts", "prompts.txt", "--image", "red.png", "-o", "list.png", *FAST)[0] == 0
    for k, prompt in enumerate(("a red cat", "a dog")):
        assert metabridge("generate", trained, prompt, "--image", "red.png", "-o", "one.png", *FAST)[0] == 0
        assert np.abs(pixels(f"list-{k}.png") - pixels("one.png")).max() <= 1


@pytest.fixture
def bad(pictures: None) -> None:
    """What is wrong in one way or another."""
    Path("empty.png").write_bytes(b"")
    Image.new("L", (10_000, 10)).save("wide.png")
    Image.new("1", (10_000, 10_000)).save("large.png")
    Path("text.png").write_text("not a picture")
    Path("cut.png").write_bytes(Path("red.png").read_bytes()[:60])
    Path("blank.txt").write_text("\n\n")
    Path("latin.txt").write_bytes("größer".encode("latin-1"))
    lines = {
        "key": {"prompt": "a", "sed": 1}, "seed": {"prompt": "a", "seed": -1}, "none": {"images": []}, "surrogate": {"prompt": "\ud800"},
        "images": {"prompt": "a", "images": "x"}, "gone": {"prompt": "a", "images": ["x"]}, "thought": {"prompt": "a", "thought": " "},
        "long": {"prompt": "word " * 900}, "null": {"prompt": "a", "images": ["a\0.png"]}, "token": {"prompt": "<|im_end|>"},
    }  # fmt: skip
    for name, row in lines.items():
        Path(f"{name}.jsonl").write_text('{"prompt": "a cat"}\n' + json.dumps(row))
    Path("seeds.jsonl").write_text(2 * '{"prompt": "a cat", "seed": 1}\n')
    Path("json.jsonl").write_text('{"prompt": "a cat"}\n{')


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a", "--image", "empty.png"], "--image empty.png: is empty (0 bytes); give a picture"),
        (["a", "--image", "wide.png"], "--image wide.png: 10000x10 pixels given; 8192 a side at most, scale it down first"),
        (["a", "--image", "large.png"], "--image large.png: 10000x10000 pixels given; 8192 a side at most"),
        (["a", "--image", "text.png"], "--image text.png: not a picture that can be read; "),
        (["a", "--image", "cut.png"], "--image cut.png: damaged or unreadable ("),
        (["a", "--image", "."], "--image .: cannot be read (Is a directory); give a picture"),
        ([], "PROMPT: none given; say what to draw, or give --prompts FILE"),
        (["a", "--prompts", "key.jsonl"], "--prompts key.jsonl: prompts are given beside it; "),
        (["--prompts", "gone.txt"], "--prompts gone.txt: cannot be read (No such file or directory)"),
        (["--prompts", "blank.txt"], "--prompts blank.txt: no prompt in it; write one a line"),
        (["--prompts", "latin.txt"], "--prompts latin.txt: cannot be read (it is not UTF-8)"),
        (["--prompts", "json.jsonl"], "json.jsonl, line 2: not JSON ("),
        (["--prompts", "key.jsonl"], "key.jsonl, line 2.sed: no such key of a row; did you mean seed? "),
        (["--prompts", "seed.jsonl"], "seed.jsonl, line 2: seed is -1; it is a whole number from 0 to 2**63 - 1"),
        (["--prompts", "none.jsonl"], "none.jsonl, line 2: prompt is missing; say what to draw"),
        (["--prompts", "images.jsonl"], "images.jsonl, line 2: images is not a list of paths; "),
        (["--prompts", "gone.jsonl"], "gone.jsonl, line 2: x: no such file; give a picture"),
        (["--prompts", "null.jsonl"], "null.jsonl, line 2: a\0.png: cannot be read (embedded null byte); give a picture"),
        (["--prompts", "seeds.jsonl", "--seed", 5], "--seed 5: has no effect, each row of seeds.jsonl has a seed of its own; leave it out"),
        (["a", "--image", 300 * "x"], f"--image {300 * 'x'}: cannot be read (File name too long); give a picture"),
        (["a", "--offload"], "--offload: has no effect, there is no GPU here; leave it out"),
        (["a", "--max-new-tokens", 9], "--max-new-tokens 9: has no effect without --think; add --think"),
        (["--prompts", "thought.jsonl"], "thought.jsonl, line 2: thought: empty; "),
        (["--prompts", "surrogate.jsonl"], "surrogate.jsonl, line 2: holds bytes that are no UTF-8"),
        (["--prompts", "long.jsonl", "--batch-size", 1], "long.jsonl, line 2: too long; "),
        (["--prompts", "token.jsonl", "--batch-size", 1], "token.jsonl, line 2: holds the brain's special token <|im_end|>"),
        (["a", "b", "--thought", "c"], "--thought: goes with one prompt; "),
        (["a", "--thought", "c", "--think"], "--think: has no effect, the thought is given; "),
        (["a", "--thought", ""], "--thought: empty; "),
        (["a", "--negative", ""], "--negative: empty; "),
        (["a", "--negative", "b", "--guidance", 1], "negative_prompt: has no effect at guidance_scale 1; "),
        (["a", "--image", "red.png", "-o", "red.png"], "-o red.png: is one of the pictures that are drawn from; "),
        (["a", "--preserve", 0.5], "preserve: 0.5 given, but a prompt comes without a picture"),
        (["a", "--preserve", 2, "--image", "red.png"], "preserve: 2 given; it is 0 (draw all anew) to 1 (keep all)"),
        (["a", "--image-guidance", 2], "image_guidance_scale: 2 given, but no prompt comes with a picture"),
        (["a", "--height", 30], "height, width: 30x64 given; "),
        (["a", "--height", 2**24, "--width", 2**24], "out of memory ("),
    ],
    ids=lambda value: " ".join(map(str, value))[:40] if isinstance(value, list) else "",
)
def test_an_error_is_one_line(metabridge: Command, bad: None, trained: Path, words: list[object], line: str) -> None:
    before = sorted(Path().rglob("*"))
    code, _, err = metabridge("generate", trained, *([] if "-o" in words else ["-o", "new/a.png"]), *words)
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith(f"metabridge: {line}")
    assert sorted(Path().rglob("*")) == before


def test_a_list_of_which_some_have_pictures(metabridge: Command, pictures: None, trained: Path) -> None:
    """What is said for those with pictures leaves the others as they are, whatever chunk they fall into."""
    words = ("--guidance", 1, "--batch-size", 1, "-o", "a.png", *FAST)
    rows = [{"prompt": "a cat", "images": ["red.png"]}, {"prompt": "a dog"}]
    Path("some.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = metabridge("generate", trained, "--prompts", "some.jsonl", "--image-guidance", 1.5, "--negative", "a cow", *words)
    assert code == 0 and out.splitlines()[1:] == ["a-0.png", "a-1.png"]
    assert metabridge("generate", trained, "a dog", *words)[0] == 0
    assert np.array_equal(pixels("a.png"), pixels("a-1.png"))


def test_a_source_that_changes_while_others_are_drawn(tmp_path: Path) -> None:
    same, other = tmp_path / "same.png", tmp_path / "other.png"
    for path in (same, other):
        Image.new("RGB", (8, 8), "red").save(path)
    (job,) = jobs_of(["a cat"], Options(images=(same, other)))
    Image.new("RGB", (8, 8), "green").save(other)
    assert job.sources[0].image.getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(UserError, match=r"other\.png: is another picture now than when this began; run the command again"):
        _ = job.sources[1].image


def test_no_such_bridge_however_it_is_named(metabridge: Command) -> None:
    for name in (300 * "x", "~nobody-of-this-name/run", "a\0b"):
        code, _, err = metabridge("generate", name, "a star")
        assert code == 2 and err.startswith(f"metabridge: {name}: no such folder"), err


def test_out_of_memory_says_what_to_lower(metabridge: Command, trained: Path) -> None:
    """An allocation of 2^48 bytes fails everywhere."""
    _, _, err = metabridge("generate", trained, "a", "--height", 2**24, "--width", 2**24)
    assert "draw fewer images at once (batch_size), smaller ones (height, width)" in err


def test_again_refuses(metabridge: Command, pictures: None, trained: Path, tmp_path: Path) -> None:
    def line(*words: object) -> str:
        code, _, err = metabridge("generate", *words)
        assert (code, err.count("\n")) == (2, 1) and not Path("out-again.png").exists()
        return err

    assert metabridge("generate", trained, "a cat", "--image", "red.png", *FAST)[0] == 0
    assert (
        line("--again", "out.png", "--seed", 0, "-n", 1) == "metabridge: --again out.png: draws as that was drawn; leave out -n, --seed\n"
    )
    assert line(trained, "a dog", "--again", "out.png").endswith("leave out PROMPT\n")
    assert line("--again", "gone.png") == "metabridge: --again gone.png: no such file; give a PNG that metabridge generate drew\n"
    for name in ("red.png", "list/rows.jsonl"):
        assert line("--again", name).startswith(f"metabridge: --again {name}: not a PNG that metabridge generate drew, ")

    original, held = Path("red.png").read_bytes(), Image.open("out.png")
    Image.new("RGB", (64, 64), "blue").save("red.png")
    assert line("--again", "out.png").startswith("metabridge: --again out.png: its source picture red.png is another one now (sha256 ")
    Path("red.png").unlink()
    assert line("--again", "out.png").startswith("metabridge: --again out.png: its source picture red.png is gone; put it back")
    Path("red.png").write_bytes(original)

    def other(change: Any) -> None:
        tree = record("out.png")
        change(tree)
        Path("other.png").write_bytes(png(held, {"metabridge": json.dumps(tree)}))

    for change, told in (
        (lambda tree: tree.update(format=2), "its record has format 2, this version reads 1; update metabridge"),
        (lambda tree: tree.pop("chunk"), "its record is damaged ('chunk')"),
        (lambda tree: tree["bridge"].update(content="0" * 64), "drawn with another bridge, of content 000000000000, "),
        (lambda tree: tree["bridge"]["hand"].update(fingerprint="0" * 64), "drawn with another hand, "),
        (lambda tree: tree["bridge"].update(name="nothere"), "nothere: no such folder and no shipped bridge; "),
    ):
        other(change)
        assert told in line("--again", "other.png")

    other(lambda tree: tree["versions"].update(torch="1.0") or tree.update(threads=999))
    code, _, err = metabridge("generate", "--again", "other.png")
    assert code == 0 and err.count("\n") == 1
    assert err.startswith("metabridge: --again other.png: drawn with threads 999, now ") and "torch 1.0, now " in err
    assert (pixels("other-again.png") == pixels("out.png")).all()


def test_again_with_a_bridge_that_has_moved(metabridge: Command, trained: Path, tmp_path: Path) -> None:
    assert metabridge("generate", trained, "a cat", *FAST)[0] == 0
    assert metabridge("generate", trained / "bridge", "--again", "out.png")[0] == 0
    make_brain(tmp_path / "other", seed=1)
    code, _, err = metabridge("generate", "flatland", "--again", "out.png")
    assert code == 2 and err.startswith("metabridge: --again out.png: drawn with another brain, ")
