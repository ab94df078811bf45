"""What must be true of the repository as a whole: imports, packaging, the rules of the house."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import sglang_multiverse

CORE = ("turns", "dialect", "lexer", "sequencer", "structure", "layout", "parallelism", "text")
ROOMS = {
    "sglang_multiverse": "sglang_multiverse",
    "training": "sglang_multiverse/training",
    "patches": "sglang_multiverse/patches",
    "data_pipeline": "sglang_multiverse/data_pipeline",
}


def run(code: str, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[Path]:
    """Every file under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [repository / name for name in listed.stdout.split("\0") if name]


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the files as they are."""
    folder = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "LICENSE", *ROOMS):
        subprocess.run(["cp", "-r", str(repository / name), str(source)], check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    done = subprocess.run(
        [*command, str(folder), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_core_needs_numpy_alone(tmp_path: Path) -> None:
    """Every other package of the environment is blocked."""
    code = f"""
import importlib, sys
allowed = {{"numpy", "sglang_multiverse", *sys.stdlib_module_names}}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and not top.startswith("__editable__"):
            raise ImportError(f"{{name}} is no package of the core")
sys.meta_path.insert(0, Blocker())
for name in {CORE}:
    importlib.import_module(f"sglang_multiverse.{{name}}")
from sglang_multiverse.text import parse_text, serialise
assert serialise(parse_text("<Think>\\nx")) == "<Think>\\nx"
"""
    done = run(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def imports_of(file: Path) -> Iterator[str]:
    """Modules of this package that ``file`` imports, as dotted names from its root."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from ([node.module] if node.module else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_a_core_module_imports_only_what_stands_below_it(repository: Path) -> None:
    order = ["turns", "dialect", "sequencer", "structure", "layout", "parallelism", "lexer", "text"]
    for i, name in enumerate(order):
        found = set(imports_of(repository / "sglang_multiverse" / f"{name}.py"))
        assert found & set(order) <= set(order[:i]), name


def test_pure_rooms_touch_neither_sglang_nor_torch(repository: Path) -> None:
    files = [repository / "sglang_multiverse" / f"{name}.py" for name in CORE]
    files += (repository / "sglang_multiverse" / "engine").rglob("*.py")
    for file in files:
        tops = {name.partition(".")[0] for name in imports_of(file)}
        assert not tops & {"sglang", "torch", "transformers", "trl", "peft"}, file


def test_sglangs_internals_are_known_to_few_rooms(repository: Path) -> None:
    """Following a new SGLang release must mean touching few folders."""
    rooms = ("patches/", "sglang_multiverse/attention/", "sglang_multiverse/platform/")
    # Logit processors are subclasses of SGLang's public one, and the server imports them by name.
    rooms += ("sglang_multiverse/stress/scripted.py",)
    rooms += ("sglang_multiverse/bench/scripted.py", "sglang_multiverse/bench/hook_times.py")
    for folder in ("sglang_multiverse", "training", "data_pipeline"):
        for file in (repository / folder).rglob("*.py"):
            place = file.relative_to(repository).as_posix()
            if not place.startswith(rooms):
                assert not any(name.startswith("sglang.srt") for name in imports_of(file)), place


def test_nothing_lands_outside_the_namespace(repository: Path, tmp_path: Path) -> None:
    code = """
import importlib.util
for name in ("training", "patches", "data_pipeline"):
    assert importlib.util.find_spec(f"sglang_multiverse.{name}"), name
    assert importlib.util.find_spec(name) is None, name
"""
    done = run(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_wheel_holds_every_module_under_the_namespace(repository: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for room, place in ROOMS.items():
        for file in (repository / room).rglob("*.py"):
            assert f"{place}/{file.relative_to(repository / room).as_posix()}" in names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {
        "sglang_multiverse",
        f"sglang_multiverse-{sglang_multiverse.__version__}.dist-info",
    }
    assert "sglang_multiverse/py.typed" in names


def test_a_wheel_holds_the_tiny_model(repository: Path, wheel: Path) -> None:
    model = repository / "sglang_multiverse" / "tiny" / "model"
    inside = {
        info.filename: info.file_size
        for info in zipfile.ZipFile(wheel).infolist()
        if info.filename.startswith("sglang_multiverse/tiny/model/")
    }
    files = [file for file in model.rglob("*") if file.is_file()]
    assert {f"sglang_multiverse/tiny/model/{f.relative_to(model)}" for f in files} == set(inside)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in files}
    assert sum(inside.values()) <= 8 * 2**20


def test_an_installed_wheel_works_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"""
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__name__", "").lower()]
sys.path.insert(0, {str(tmp_path / "site")!r})
import sglang_multiverse, sglang_multiverse.training, sglang_multiverse.data_pipeline
import sglang_multiverse.text, sglang_multiverse.cli
for module in (sglang_multiverse, sglang_multiverse.training, sglang_multiverse.text):
    assert module.__file__.startswith({str(tmp_path / "site")!r}), module.__file__
"""
    done = run(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("group", "name", "target"),
    [
        ("sglang.srt.plugins", "multiverse", "sglang_multiverse.patches.plugin:register"),
        ("sglang.srt.platforms", "torch_cpu", "sglang_multiverse.platform:activate"),
        ("console_scripts", "multiverse", "sglang_multiverse.cli:app"),
    ],
)
def test_entry_points_lead_somewhere(group: str, name: str, target: str) -> None:
    (found,) = entry_points(group=group, name=name)
    assert found.value == target
    assert callable(found.load())


def test_what_the_extras_pin(repository: Path) -> None:
    text = (repository / "setup.py").read_text(encoding="utf-8")
    assert '"sglang==0.5.23"' in text
    assert '"trl==1.16.0"' in text
    assert 'python_requires=">=3.11,<3.13"' in text
    assert "project" not in tomllib.loads((repository / "pyproject.toml").read_text())


def test_there_is_no_unfinished_work(tracked: list[Path], repository: Path) -> None:
    words = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]))
    for file in tracked:
        if file.suffix in (".py", ".md", ".toml", ".yaml", ".yml") and file.is_file():
            text = file.read_text(encoding="utf-8")
            assert not words.search(text), file.relative_to(repository)


def test_names_say_what_is_inside(tracked: list[Path]) -> None:
    for file in tracked:
        assert file.stem not in ("utils", "helpers", "common", "misc"), file
