from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from metabridge.bridge.recipe import Recipe
from metabridge.scripts.cli import main
from tests.runs import TRAIN, fresh_accelerator, recipe_file, tree
from tests.tiny import recipe_tree

__all__ = ["fresh_accelerator", "recipe_file", "tree"]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The marked blocks of the test module's PAGE, as files of a folder from which they can be imported."""
    page = request.module.PAGE.read_text(encoding="utf-8")
    for name, text in re.findall(r"<!-- (\S+) -->\n```\w+\n(.*?)```\n<!-- end -->", page, re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name == "mine" or name.startswith("mine.")]:
        del sys.modules[name]


@pytest.fixture
def metabridge(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run the command a user types, in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["metabridge", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
            sys.exit(0)
        out, err = capsys.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return code or 0, out, err

    return run


@pytest.fixture(scope="session")
def trained(brain_folder: Path, hand_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a bridge in it."""
    from metabridge.adapters import assemble
    from metabridge.training.train import train

    out = tmp_path_factory.mktemp("runs") / "tiny"
    tree = recipe_tree(brain_folder, hand_folder) | {
        "objective": {"think": 0.2},
        "train": TRAIN | {"steps": 2},
        "log": {"every": 1, "sample_every": 0},
    }
    recipe = Recipe.parse(yaml.safe_dump(tree))
    train(recipe, assemble(recipe), out)
    return out
