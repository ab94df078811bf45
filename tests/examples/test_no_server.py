"""Examples that ask a server say in a line when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from .running import fails


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1:9"])
@pytest.mark.parametrize("name", ["openai_client.py", "stream_paths.py", "batch.py"])
def test_no_server(name: str, url: str, tmp_path: Path) -> None:
    out = [tmp_path / "answers.jsonl"] if name == "batch.py" else []
    said = fails(name, *out, "--url", url, cwd=tmp_path)
    assert said.startswith("error: ")
    assert len(said.splitlines()) <= 2
