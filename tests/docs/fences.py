"""Fenced blocks of the documents, and the marks above them that say how each is checked.

A mark is an HTML comment on a line of its own, directly above the fence:

=====================================  ============================================================
``<!-- needs: gpu, model -->``         not run here for want of these (:data:`NEEDS`)
``<!-- minutes: 20 -->``               not run here, it takes so long
``<!-- covered-by: FILE::TEST -->``    that test runs it
``<!-- server -->``                    run against the server of ``tests/e2e``
``<!-- given: CODE -->``               CODE is run before it, in the same language
``<!-- prints -->``                    above a text: what the block before it prints (… is anything)
=====================================  ============================================================

A block of bash or Python without the first three is run; JSON, YAML and TOML are read. Blocks of
one page run in order, in one temporary folder that looks like a clone.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

#: What a block may need that is not here.
NEEDS = {
    "gpu": "an accelerator",
    "network": "a network",
    "model": "a checkpoint that does not ship",
    "data": "data that do not ship",
    "llm": "an endpoint that is paid for",
    "install": "an environment of its own, or rights to change this one",
    "docker": "a container engine",
}
RUN = {"bash", "python"}
READ = {"json", "yaml", "toml"}
#: Pictures, listings and what a command prints.
SHOWN = {"", "text", "mermaid", "dockerfile", "diff"}
#: Where the documents say a server listens.
ADDRESS = re.compile(r"(?:localhost|127\.0\.0\.1):30000\b")
SECONDS = 150

_FENCE = re.compile(r"^( *)(```+)([^`\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!--\s*([a-z-]+)(?::\s*(.*?))?\s*-->[ \t]*\n\s*\Z", re.DOTALL)
_MARKS = {"needs", "minutes", "covered-by", "server", "given", "prints"}


@dataclass(frozen=True)
class Fence:
    """One fenced block. ``line`` is that of its fence."""

    page: Path
    line: int
    language: str
    code: str
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        return self.language in RUN and not self.marks.keys() & {"needs", "minutes", "covered-by"}

    @property
    def needs(self) -> list[str]:
        return [one.strip() for one in self.marks.get("needs", "").split(",") if one.strip()]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


class FenceFailed(AssertionError):
    """A block did not do what the page says."""


def fences(page: Path) -> list[Fence]:
    """Every fenced block of ``page``, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent, _, language, code = match.groups()
        code = re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        line = text.count("\n", 0, match.start()) + 1
        marks = dict(_marks_above(text[: match.start()]))
        found.append(Fence(page, line, language.strip(), code, marks))
    return found


def _marks_above(text: str) -> Iterator[tuple[str, str]]:
    while (match := _MARK.search(_last_comment(text))) and match[1] in _MARKS:
        yield match[1], match[2] or ""
        text = text[: text.rindex("<!--")]


def _last_comment(text: str) -> str:
    """From the last ``<!--`` on: a mark must be all that stands between it and the fence."""
    return text[max(0, text.rfind("<!--")) :]


def read(fence: Fence) -> None:
    """Parse a block of data, or of code that is not run.

    Raises:
        FenceFailed: it is not what it says it is.
    """
    try:
        if fence.language == "json":
            _json(fence.code)
        elif fence.language == "yaml":
            list(yaml.safe_load_all(fence.code))
        elif fence.language == "toml":
            tomllib.loads(fence.code)
        elif fence.language == "python":
            ast.parse(fence.code)
        elif fence.language == "bash":
            subprocess.run(["bash", "-n"], input=fence.code, text=True, check=True)
    except (ValueError, SyntaxError, yaml.YAMLError, subprocess.CalledProcessError) as error:
        raise FenceFailed(f"{fence}: no {fence.language}: {error}") from error


def _json(code: str) -> None:
    """One value, or one a line."""
    try:
        json.loads(code)
    except ValueError:
        for line in code.splitlines():
            json.loads(line)


def run_page(page: Path, folder: Path, address: str | None = None) -> None:
    """Run the blocks of ``page`` in ``folder``, one process each, and compare what they print.

    Args:
        address: ``HOST:PORT`` of the server that blocks for one are to ask.

    Raises:
        FenceFailed: a block fails, takes too long, or prints something else.
    """
    printed = ""
    for fence in fences(page):
        if fence.runs:
            printed = _run(fence, folder, address)
        elif "prints" in fence.marks and not _same(printed, fence.code):
            lines = difflib.ndiff(fence.code.strip().split("\n"), printed.strip().split("\n"))
            raise FenceFailed(f"{fence}: the block above prints\n" + "\n".join(lines))


def _same(printed: str, shown: str) -> bool:
    """An ellipsis stands for anything within a line, spaces at its ends do not count."""
    lines = [r".*".join(map(re.escape, line.strip().split("…"))) for line in shown.split("\n")]
    found = "\n".join(line.strip() for line in printed.strip().split("\n"))
    return re.fullmatch("\n".join(lines).strip(), found) is not None


def _run(fence: Fence, folder: Path, address: str | None) -> str:
    code = f"{fence.marks.get('given', '')}\n{fence.code}"
    if address is not None:
        code = ADDRESS.sub(address, code)
    script = folder / f".block{'.py' if fence.language == 'python' else ''}"
    script.write_text(code, encoding="utf-8")
    command = {"python": [sys.executable], "bash": ["bash", "-euo", "pipefail"]}[fence.language]
    process = subprocess.Popen(
        [*command, str(script)],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(folder / ".stderr").open("w"),
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise FenceFailed(f"{fence}: still running after {SECONDS} s") from error
    finally:
        _end_all(process)
    if process.returncode:
        said = (folder / ".stderr").read_text(encoding="utf-8")[-3000:]
        told = f"{fence}: exit code {process.returncode}; mend it, or mark what it needs"
        raise FenceFailed(f"{told}\n{printed[-3000:]}\n{said}")
    return printed


def _end_all(process: subprocess.Popen[str]) -> None:
    """What a block left in the background, too."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _environment() -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("SGLANG_")}
    return {
        **env,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }


def clone(repository: Path, folder: Path) -> Path:
    """``folder``, with what stands at the top of ``repository`` linked into it."""
    for entry in repository.iterdir():
        if not entry.name.startswith(".") and entry.name not in ("build", "runs", "out", "site"):
            (folder / entry.name).symlink_to(entry)
    return folder


def pages(repository: Path) -> list[Path]:
    """Every document whose blocks are checked."""
    found = [*repository.glob("*.md"), *repository.glob("docs/**/*.md")]
    found += repository.glob("examples/**/*.md")
    return sorted(found)
