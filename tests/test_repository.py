"""What must be true of the repository as a whole: imports, packaging, the rules of the house."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

CORE = ("turns", "dialect", "lexer", "sequencer", "structure", "layout", "parallelism", "text")


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
