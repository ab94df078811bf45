"""The route of the live page: there once, and not where it is not wanted."""

from __future__ import annotations

import argparse

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from sglang_multiverse.patches import arguments, view
from sglang_multiverse.view.live import PATH, live


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(view.NO_VIEW, raising=False)


def test_the_route_is_added_once() -> None:
    app = FastAPI()
    for _ in range(2):
        view.install(app)
    assert [route.path for route in app.routes].count(PATH) == 1
    answer = TestClient(app).get(PATH)
    assert (answer.status_code, answer.text) == (200, live())
    assert "frame-ancestors" in answer.headers["content-security-policy"]


def test_no_route_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(view.NO_VIEW, "1")
    app = FastAPI()
    view.install(app)
    assert TestClient(app).get(PATH).status_code == 404


def test_the_flag() -> None:
    parser = argparse.ArgumentParser()
    arguments._add_cli_args(None, parser)
    assert parser.parse_args(["--multiverse-no-view"]).multiverse_no_view
    assert not parser.parse_args([]).multiverse_no_view
