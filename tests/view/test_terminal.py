"""Where ``multiverse show`` prints: closed, full and narrow ones included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = f"{sys.executable} -m sglang_multiverse.cli show"


def shell(command: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, check=False, env={**os.environ, **env}
    )


@pytest.fixture(scope="module")
def fork(repository: Path) -> Path:
    return repository / "docs" / "figures" / "fork.jsonl"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("- <&-", b"error: standard input is closed\n"),
        ("{fork} >&-", b"error: standard output is closed; name a file with --out\n"),
        ("{fork} > /dev/full", b"No space left on device"),
        ("{fork} --format html > /dev/full", b"No space left on device"),
    ],
)
def test_what_is_closed_or_full_is_said(arguments: str, says: bytes, fork: Path) -> None:
    done = shell(f"{SHOW} {arguments.format(fork=fork)}")
    assert done.returncode == 2
    assert says in done.stderr
    assert b"Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_is_written_without_a_standard_output(fork: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = shell(f"{SHOW} {fork} --out {out} >&- 2>&- <&-")
    assert done.returncode == 0
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_blocks_gets_signs(encoding: str, fork: Path) -> None:
    done = shell(f"{SHOW} {fork}", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode(encoding).splitlines()
    assert "# text, + goal, = conclusion" in lines[-1]
    assert any(line.startswith("  1.1") and "###" in line for line in lines)


@pytest.mark.parametrize("format_", ["html", "svg", "perfetto"])
def test_files_on_standard_output_are_utf_8_everywhere(format_: str, fork: Path) -> None:
    command = f"{SHOW} {fork} --format {format_}"
    there, here = shell(command, PYTHONIOENCODING="ascii"), shell(command)
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout


def test_a_reader_that_has_seen_enough_is_no_fault(fork: Path) -> None:
    done = shell(f"{SHOW} {fork} --format html | head -c 20")
    assert (done.stdout, done.stderr) == (b"<!doctype html>\n<htm", b"")
