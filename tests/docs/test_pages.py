"""The documents agree with the code: commands, messages, links; and the site builds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from sglang_multiverse.cli import app

from .fences import pages

ROOT = Path(__file__).resolve().parents[2]
CODE = ("sglang_multiverse", "patches", "training", "data_pipeline")
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]*))?\)")
_CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and the site spell them."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(_CODE.sub("``", page.read_text(encoding="utf-8"))):
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), target
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{target}#{anchor}"


def test_the_page_of_commands_names_them_all() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `multiverse ([a-z-]+)", page, re.MULTILINE))
    assert told == set(group.commands)


def texts(tree: ast.AST) -> list[str]:
    """Every text in the code, with an ellipsis where something is filled in."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_every_message_of_troubleshooting_is_one_the_code_gives() -> None:
    files = [file for room in CODE for file in (ROOT / room).rglob("*.py")]
    source = [one for file in files for one in texts(ast.parse(file.read_text(encoding="utf-8")))]
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 15
    for message in messages:
        words = ".*".join(re.escape(part) for part in message.split("…"))
        assert any(re.search(words, one, re.DOTALL) for one in source), message


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = (tmp_path / "structure-and-layout" / "index.html").read_text(encoding="utf-8")
    assert "/blob/main/sglang_multiverse/layout.py" in built
    for page in tmp_path.rglob("*.html"):
        assert not re.search(r'<(?:script|link)[^>]+(?:src|href)="http', page.read_text()), page
