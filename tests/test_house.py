"""The rules of the house that no linter knows: who may import whom, what ships, and what answers without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {  # folder -> what else of ours it may import
    "bridge": (),
    "adapters": ("bridge",),
    "training": ("bridge",),
    "eval": ("bridge", "training.flatland"),  # the world it scores
    "scripts": ("bridge", "adapters", "training", "eval"),
}
BRIDGE_USES = {"torch", "numpy", "PIL", "yaml", "safetensors"}  # third parties in bridge/
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def imported(file: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function, by its full name."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import; write metabridge.*"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder: str) -> None:
    allowed = [f"metabridge.{name}" for name in (folder, *MAY_IMPORT[folder])]
    for file in (ROOT / folder).rglob("*.py"):
        ours = [name for name in imported(file) if inside(name, "metabridge")]
        wrong = [name for name in ours if not any(inside(name, package) for package in allowed)]
        assert not wrong, f"{file.relative_to(ROOT)} may not import {wrong}"


def test_bridge_uses_few_third_parties() -> None:
    for file in (ROOT / "bridge").rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(file)} - set(sys.stdlib_module_names) - {"metabridge", "__future__"}
        assert roots <= BRIDGE_USES, f"{file.relative_to(ROOT)} imports {sorted(roots - BRIDGE_USES)}"


def test_every_folder_ships() -> None:
    """An editable install finds a folder that the list forgets; the wheel would lack it."""
    with_code = {file.parent.relative_to(ROOT) for folder in MAY_IMPORT for file in (ROOT / folder).rglob("*.py")}
    assert set(PROJECT["packages"]) == {".".join(("metabridge", *path.parts)) for path in with_code}
    assert set(PROJECT["package-dir"].values()) == set(MAY_IMPORT)


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files", *MAY_IMPORT], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    """Recipes, templates and weights among them: what git tracks is what pip installs."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout to compare the wheel with")
    copy = tmp_path / "clone"
    for name in [*tracked(), "pyproject.toml", "LICENSE", "README.md"]:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            target.symlink_to(ROOT / name)
    code = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=copy, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    missing = {name for name in tracked() if (ROOT / name).is_file() and f"metabridge/{name}" not in held}
    assert not missing


HEAVY = {"torch", "transformers", "diffusers", "accelerate", "wandb", "datasets", "matplotlib", "scipy"}


@pytest.mark.parametrize("command", ["--help", "train --help", "ls brains", "ls hands --json", "ls recipes", "ls benchmarks", "ls data"])
def test_answers_before_anything_heavy_is_imported(command: str) -> None:
    assert heavy_after(command, 0) == "heavy: []"


@pytest.mark.parametrize("command", ["train flatlnad", "train flatland train.lrr=1", "ls brians", "train flatland train.lr=fast"])
def test_errors_come_before_anything_heavy_is_imported(command: str) -> None:
    assert heavy_after(command, 2) == "heavy: []"


def heavy_after(command: str, code: int) -> str:
    program = (
        "import sys\n"
        "from metabridge.scripts.cli import main\n"
        f"sys.argv = ['metabridge', *{command.split()!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert (end.code or 0) == " + str(code) + ", end.code\n"
        f"print('heavy:', sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_files_stay_readable() -> None:
    for folder in MAY_IMPORT:
        for file in (ROOT / folder).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 320, f"{file.relative_to(ROOT)} is long; one idea a file"
