"""Commands in blocks of bash, and whether their subcommands and flags exist."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import typer.main
from typer.core import TyperGroup

from sglang_multiverse.cli import app

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_HERE = re.compile(r"<<\s*'?(\w+)'?(.*?)\n.*?^\1$", re.MULTILINE | re.DOTALL)
#: A quoted text, a comment, or the end of a line.
_PIECE = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|(?:^|(?<=\s))\#[^\n]*|\n""")


def commands(code: str) -> Iterator[list[str]]:
    """The simple commands of ``code``: words unquoted, assignments before them left out."""
    code = _HERE.sub(r"\2", code).replace("\\\n", " ")
    code = _PIECE.sub(lambda m: m[0] if m[0][0] in "'\"" else (";" if m[0] == "\n" else ""), code)
    lexer = shlex.shlex(code, posix=True, punctuation_chars=True)
    lexer.commenters = ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();<>|&"):
            if words:
                yield words
            words = []
        elif words or not _ASSIGNMENT.match(word):
            words.append(word)


def unknown(words: list[str]) -> list[str]:
    """What of a command is not there: a subcommand, or flags. Empty for other programs."""
    if words[0].endswith("/multiverse") or words[0] == "multiverse":
        return _unknown_of_ours(words[1:])
    if words[:3] == ["python", "-m", "sglang.launch_server"] or words[:2] == ["sglang", "serve"]:
        return [flag for flag in _flags(words) if flag not in _served()]
    return []


def _unknown_of_ours(words: list[str]) -> list[str]:
    command = typer.main.get_command(app)
    path: list[str] = []
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name, words = words[0], words[1:]
        path.append(name)
        found = command.commands.get(name)
        if found is None:
            return [" ".join(["multiverse", *path])]
        command = found
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    known.add("--help")
    if path == ["serve"]:
        known |= _served()
    if path in (["sft"], ["grpo"]):
        known |= _trained(path[0])
    return [flag for flag in _flags(words) if flag not in known]


def _flags(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]


@functools.cache
def _served() -> set[str]:
    """Flags of a server with the plugin."""
    return _help(["-m", "sglang.launch_server", "--help"])


@functools.cache
def _trained(command: str) -> set[str]:
    return _help(["-m", "sglang_multiverse.cli", command, "--help"]) | {"--config"}


def _help(command: list[str]) -> set[str]:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    return set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", done.stdout))
