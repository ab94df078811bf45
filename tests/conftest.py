"""What every test may use."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Threads that wait for one another by spinning slow small tensors down tenfold on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine makes any example slow, and none wrong.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir(repository: Path) -> Path:
    """The folder of reference material beside the repository; without it the test is skipped."""
    folder = repository.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the reference material in {folder}")
    return folder


@pytest.fixture(scope="session")
def traces(shared_dir: Path) -> Callable[[str], Rows]:
    """``traces("wellformed")`` gives the rows of ``traces/wellformed.jsonl``."""

    def rows(name: str) -> Rows:
        path = shared_dir / "traces" / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return rows


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright; where either is missing the test is skipped."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A page of its own; whatever it logs as an error, or raises, fails the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    page.close()
    assert not wrong
