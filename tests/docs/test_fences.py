"""Every fenced block of the documents does what it says, or says what it would need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from . import commands
from .fences import (
    NEEDS,
    READ,
    RUN,
    SHOWN,
    Fence,
    FenceFailed,
    clone,
    fences,
    pages,
    read,
    run_page,
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = pages(ROOT)
FENCES = [fence for page in PAGES for fence in fences(page)]


def name(thing: object) -> str:
    return str(thing.relative_to(ROOT)) if isinstance(thing, Path) else str(thing)


def asks_a_server(page: Path) -> bool:
    return any("server" in fence.marks for fence in fences(page))


@pytest.mark.parametrize("fence", FENCES, ids=name)
def test_a_block_is_of_a_known_kind_and_can_be_read(fence: Fence) -> None:
    assert fence.language in RUN | READ | SHOWN
    read(fence)


@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence.marks], ids=name)
def test_a_mark_says_something_true(fence: Fence) -> None:
    """Needs are of a known kind, minutes are a number, a test that is named is there."""
    assert set(fence.needs) <= NEEDS.keys()
    assert bool(fence.needs) == ("needs" in fence.marks)
    if "minutes" in fence.marks:
        assert int(fence.marks["minutes"]) >= 1
    if "covered-by" in fence.marks:
        for test in fence.marks["covered-by"].split():
            file, _, function = test.partition("::")
            text = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {function}\(", text, re.MULTILINE), test
    if "prints" in fence.marks:
        before = FENCES[FENCES.index(fence) - 1]
        assert before.page == fence.page
        assert before.runs
    assert fence.language in (SHOWN if "prints" in fence.marks else RUN)


@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence.language == "bash"], ids=name)
def test_commands_and_flags_exist(fence: Fence) -> None:
    """Of blocks that are not run here, too."""
    for words in commands.commands(fence.code):
        assert commands.unknown(words) == [], " ".join(words)


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if not asks_a_server(p) and any(fence.runs for fence in fences(p))],
    ids=name,
)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    run_page(page, clone(ROOT, tmp_path))


def page_of(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_blocks_share_a_folder_and_print_what_stands_below(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        "<!-- given: x = 20 -->\n```python\nopen('out', 'w').write(str(x + 1))\n```\n\n"
        "```bash\ncat out\n```\n\n<!-- prints -->\n```text\n21\n```\n",
    )
    run_page(page, tmp_path)
    page_of(tmp_path, page.read_text().replace("```text\n21", "```text\n22"))
    with pytest.raises(
        FenceFailed, match=r"page\.md:11: the block above prints\n- 22\n(\?.*\n)?\+ 21"
    ):
        run_page(page, tmp_path)


@pytest.mark.parametrize("code", ["```bash\nfalse\n```\n", "```python\nimport nothing_such\n```\n"])
def test_a_block_that_fails_is_told(code: str, tmp_path: Path) -> None:
    with pytest.raises(FenceFailed, match=r"page\.md:1: exit code 1"):
        run_page(page_of(tmp_path, code), tmp_path)


def test_marks_stand_directly_above_a_fence(tmp_path: Path) -> None:
    above = "<!-- needs: gpu, model -->\n<!-- minutes: 3 -->\n```bash\nx\n```\n\n"
    apart = "<!-- server -->\n\ntext\n\n```bash\ny\n```\n"
    marked, plain = fences(page_of(tmp_path, above + apart))
    assert (marked.needs, marked.marks["minutes"]) == (["gpu", "model"], "3")
    assert not marked.runs
    assert (plain.marks, plain.runs) == ({}, True)


def test_commands_are_found_in_bash() -> None:
    code = (
        "A=1 multiverse demo --json | head  # not --this\n"
        'curl -d \'{\n "a": 1}\' x && multiverse curate \\\n  run "a b" --nope\n'
    )
    found = list(commands.commands(code))
    assert found == [
        ["multiverse", "demo", "--json"],
        ["head"],
        ["curl", "-d", '{\n "a": 1}', "x"],
        ["multiverse", "curate", "run", "a b", "--nope"],
    ]
    assert [commands.unknown(words) for words in found] == [[], [], [], ["--nope"]]
    assert commands.unknown(["multiverse", "fly"]) == ["multiverse fly"]
