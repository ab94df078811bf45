"""Operating system, C library, and the folders that a server writes to."""

from __future__ import annotations

import os
import platform
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .problem import Problem

#: What the wheels of SGLang and torch are built for.
MACHINES = ("x86_64", "aarch64")
GLIBC = (2, 34)


def operating_system() -> Iterator[Problem]:
    """Linux on x86_64 or aarch64 with a C library that the wheels can use."""
    system, machine = platform.system(), platform.machine()
    if system != "Linux":
        yield Problem(
            f"this is {system}; SGLang serves on Linux",
            "use WSL 2 on Windows, or a Linux container (python:3.11-slim will do) elsewhere",
        )
        return
    if machine not in MACHINES:
        yield Problem(
            f"this is a {machine}; SGLang's packages are built for {' and '.join(MACHINES)}",
            "use another machine",
        )
    wanted = ".".join(map(str, GLIBC))
    named = _c_library()
    version = re.search(r"glibc (\d+)\.(\d+)", named)
    if version is None or (int(version[1]), int(version[2])) < GLIBC:
        yield Problem(
            f"the C library is {named}; SGLang's packages need glibc {wanted} or later",
            "use Ubuntu 22.04, Debian 12, RHEL 9 or later, or a container with one of them",
        )


def _c_library() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "unknown"
    except (ValueError, OSError):  # another library, as musl on Alpine
        return "none that says it is glibc"


def folders() -> Iterator[Problem]:
    """The temporary folder, the home folder and the Hub's cache can be written to."""
    home = Path(os.environ.get("HOME") or Path.home())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    places = {
        "HOME": ("home folder", home),
        "XDG_CACHE_HOME": ("cache folder", cache),
        "HF_HOME": ("cache folder of the Hugging Face Hub", hub),
    }
    try:
        places["TMPDIR"] = ("temporary folder", Path(tempfile.gettempdir()))
    except FileNotFoundError:
        yield Problem("no temporary folder can be written to", "set TMPDIR to one that can")
    refused: set[Path] = set()
    for variable, (name, folder) in places.items():
        there = _existing(folder)
        reason = _unwritable(there)
        if reason and there not in refused:
            refused.add(there)
            yield Problem(
                f"the {name} {folder} cannot be written to ({reason})",
                f"set {variable} to a folder that can, with some GiB free",
            )


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest one above it that is there: where it would be made."""
    return next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))


def _unwritable(folder: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return error.strerror or str(error)
    return None
