"""Pages that ask a server, run against one: their blocks in order, in a folder like a clone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..docs.fences import ADDRESS, clone
from ..docs.fences import run_page as run
from ..docs.test_fences import PAGES, ROOT, asks_a_server, name
from .client import Client

pytestmark = pytest.mark.weights("tiny")


@pytest.mark.parametrize("page", [page for page in PAGES if asks_a_server(page)], ids=name)
def test_a_page_that_asks_a_server(page: Path, overlap: Client, tmp_path: Path) -> None:
    assert ADDRESS.search(page.read_text(encoding="utf-8"))
    run(page, clone(ROOT, tmp_path), overlap.server.url.removeprefix("http://"))
