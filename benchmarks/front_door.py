"""The table of docs/front-door.md: each bad input, what is said, after how long, with which exit
code.

    .venv/bin/python benchmarks/front_door.py

Needs the serve, train and data extras, half a minute and no server; prints a Markdown table.
"""

from __future__ import annotations

import html
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from sglang_multiverse.tiny import MODEL_DIR

ENGINE = (
    "import sglang as sgl\n"
    f"sgl.Engine(plugin='multiverse', model_path={str(MODEL_DIR)!r}, max_total_tokens=4000)"
)


@dataclass(frozen=True)
class Case:
    """One command that cannot work."""

    shown: str
    words: list[str]
    env: dict[str, str] = field(default_factory=dict)


def cases(folder: Path, port: int) -> list[Case]:
    """Models in ``folder``, each with one fault, and ``port``, which is taken."""

    def damaged(name: str) -> Path:
        shutil.copytree(MODEL_DIR, folder / name)
        return folder / name

    untagged = damaged("untagged")
    for file in untagged.glob("tokenizer*.json"):
        file.write_text(file.read_text().replace("Goal>", "goal>"))
    (damaged("no-config") / "config.json").unlink()
    (damaged("no-weights") / "model.safetensors").unlink()
    serve = ["serve", "--model-path"]
    return [
        Case("`serve --model-path ./nope`", [*serve, "./nope"]),
        Case("`serve`, a folder without config.json", [*serve, "no-config"]),
        Case("`serve`, a folder without weights", [*serve, "no-weights"]),
        Case("`serve`, a tokenizer without `<Goal>` `</Goal>`", [*serve, "untagged"]),
        Case("`serve --port`, one in use", ["serve", "--port", str(port)]),
        Case("`serve --port abc`", ["serve", "--port", "abc"]),
        Case(
            "`serve`, a home that cannot be written to",
            ["serve"],
            {"HOME": "/proc", "XDG_CACHE_HOME": "", "HF_HOME": ""},
        ),
        Case("`demo --model ./nope`", ["demo", "--model", "./nope"]),
        Case('`demo --question ""`', ["demo", "--question", ""]),
        Case("`demo --question`, 3,000 letters", ["demo", "--question", "x" * 3000]),
        Case("`demo --url`, nobody there", ["demo", "--url", "http://127.0.0.1:9"]),
        Case("`demo --url localhost`", ["demo", "--url", "localhost"]),
        Case("`sft --dataset_name ./nope.jsonl`", ["sft", "--dataset_name", "./nope.jsonl"]),
        Case("`curate run s1k --file nope.jsonl`", ["curate", "run", "s1k", "--file=nope.jsonl"]),
        Case("`analyse parallelism nope.jsonl`", ["analyse", "parallelism", "nope.jsonl"]),
        Case("`inspect nope.jsonl`", ["inspect", "nope.jsonl"]),
        Case("`doctor --model-path ./nope`", ["doctor", "--model-path", "./nope"]),
    ]


def row(case: Case, folder: Path, command: list[str]) -> str:
    begun = time.perf_counter()
    done = subprocess.run(
        [*command, *case.words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "400", **case.env},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    said = done.stderr.strip().splitlines() or ["nothing"]
    if case.words[0] == "doctor":
        said = [" ".join(line.split()) for line in done.stdout.splitlines() if "nope" in line]
    if command[-1] == "-c":
        said = said[-1:]
    text = "<br>".join(html.escape(line.strip().removeprefix("error: "), False) for line in said)
    text = text.replace(str(folder), "…").replace("|", "\\|")
    return f"| {case.shown} | {text} | {seconds:.2f} | {done.returncode} |"


def main() -> None:
    print("| input | what is said | seconds | exit code |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        folder = Path(name).resolve()
        command = [sys.executable, "-m", "sglang_multiverse.cli"]
        for case in cases(folder, sock.getsockname()[1]):
            print(row(case, folder, command), flush=True)
        engine = Case('`sgl.Engine(plugin="multiverse", …)` on a CPU', [ENGINE])
        print(row(engine, folder, [sys.executable, "-c"]), flush=True)


if __name__ == "__main__":
    main()
