"""A server starts in any folder, whatever Python files the user keeps there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app, serve
from sglang_multiverse.server import Server, free_port
from sglang_multiverse.tiny import MODEL_DIR

pytest.importorskip("sglang")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With files named as modules that a server imports."""
    for name in ("html", "torch", "transformers"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_server_of_the_package(folder: Path) -> None:
    command = Server(MODEL_DIR).command
    upto = command.index("sglang.launch_server") + 1
    done = subprocess.run(
        [*command[:upto], "--help"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "not this one" not in done.stderr
    assert "--model-path" in done.stdout


def test_multiverse_serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From looking for an accelerator to the command that it starts."""
    started: list[list[str]] = []
    monkeypatch.setattr(serve, "_run", lambda argv, *rest: started.append(argv) or 0)
    done = CliRunner().invoke(app, ["serve", "--port", str(free_port())])
    assert done.exit_code == 0, done.output
    ((_, *flags),) = started
    assert flags[: flags.index("-m")] == ["-P"]
