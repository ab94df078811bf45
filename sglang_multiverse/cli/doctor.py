"""``multiverse doctor``: can this environment serve, and if not, why."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from sglang_multiverse import SGLANG_VERSION

from ..extras import install
from . import preflight
from .preflight import Problem


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``ok`` is None for what is merely worth knowing."""

    check: str
    ok: bool | None
    detail: str
    remedy: str = ""


def command(
    model_path: Annotated[
        str | None, typer.Option(help="Also check this checkpoint's tokenizer for a dialect.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Say in one screen whether this environment can serve with fork and join, and why not.

    Exits with 1 when it cannot.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # what is not on this machine is not waited for
    checks: list[Callable[[], Finding]] = [
        _python,
        _machine,
        _folders,
        _sglang,
        _entry_point,
        _environment,
        _hooks,
        _device,
    ]
    if model_path is not None:
        checks.append(lambda: _checkpoint(model_path))
    findings = [_run(check) for check in checks]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        _show(findings)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def _run(check: Callable[[], Finding]) -> Finding:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the report alone
            return check()
    except (Exception, SystemExit) as error:  # a broken environment breaks in any way
        name = getattr(check, "__name__", "model").strip("_")
        remedy = f"install this package and SGLang anew: {install('serve')}"
        return Finding(name, False, f"{type(error).__name__}: {error}", remedy)


def _told(check: str, problems: Iterable[Problem], fine: str) -> Finding:
    found = list(problems)
    if not found:
        return Finding(check, True, fine)
    return Finding(
        check,
        False,
        "; ".join(problem.what for problem in found),
        "; ".join(problem.remedy for problem in found),
    )


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    marks = {True: "[green]ok[/]", False: "[red]no[/]", None: "[dim]–[/]"}
    table = Table(box=None, pad_edge=False)
    for heading in ("", "check", "found", "what to do"):
        table.add_column(heading)
    for finding in findings:
        told = (finding.check, finding.detail, finding.remedy)
        table.add_row(marks[finding.ok], *map(escape, told))  # they hold brackets
    console = Console()
    console.print(table)
    bad = [finding for finding in findings if finding.ok is False]
    on_cpu = any(finding.check == "device" and finding.ok is None for finding in findings)
    command = "multiverse serve" if on_cpu else "sglang serve --plugin multiverse"
    console.print(
        "[red]This environment cannot serve.[/]"
        if bad
        else f"[green]Ready:[/] {command} --model-path …",
        highlight=False,
    )


def _python() -> Finding:
    version = platform.python_version()
    ok = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Finding("python", ok, version, "" if ok else "use Python 3.11 or 3.12")


def _machine() -> Finding:
    named = f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}"
    return _told("machine", preflight.operating_system(), named.rstrip(", "))


def _folders() -> Finding:
    return _told("folders", preflight.folders(), "home, cache and temporary folder are writable")


def _sglang() -> Finding:
    wanted = SGLANG_VERSION
    try:
        found = metadata.version("sglang")
    except metadata.PackageNotFoundError:
        return Finding("sglang", False, "not installed", f"pip install 'sglang=={wanted}'")
    ok = found == wanted
    return Finding("sglang", ok, found, "" if ok else f"pip install 'sglang=={wanted}'")


def _entry_point() -> Finding:
    names = {point.name for point in metadata.entry_points(group="sglang.srt.plugins")}
    ok = "multiverse" in names
    return Finding(
        "plugin",
        ok,
        "SGLang finds it" if ok else "SGLang does not find it",
        "" if ok else f"install this package into SGLang's environment: {install('serve')}",
    )


def _environment() -> Finding:
    allowed = [name.strip() for name in os.environ.get("SGLANG_PLUGINS", "").split(",") if name]
    if allowed and "multiverse" not in allowed:
        return Finding(
            "SGLANG_PLUGINS", False, ",".join(allowed), "add multiverse to it, or unset it"
        )
    chosen = os.environ.get("SGLANG_PLATFORM", "")
    if chosen and chosen != "torch_cpu":
        return Finding(
            "SGLANG_PLATFORM",
            False,
            chosen,
            "unset it: with another platform chosen by name, SGLang skips this package's plugin",
        )
    return Finding("environment", True, f"SGLANG_PLATFORM={chosen}" if chosen else "unrestricted")


def _hooks() -> Finding:
    os.environ.setdefault("SGLANG_PLATFORM", _platform())
    from ..patches.hooks import problems
    from ..patches.registry import every_hook

    hooks = every_hook()
    found = problems(hooks)
    if found:
        return Finding("hooks", False, "; ".join(found), f"pip install 'sglang=={SGLANG_VERSION}'")
    return Finding("hooks", True, f"{len(hooks)} targets as expected")


def _platform() -> str:
    from ..devices import accelerator

    return "" if accelerator() else "torch_cpu"


def _device() -> Finding:
    from ..devices import accelerator

    device = accelerator()
    if device is None:
        return Finding("device", None, "no accelerator: the torch_cpu platform, exact but slow")
    return Finding("device", True, device)


def _checkpoint(model_path: str) -> Finding:
    told = _told("model", preflight.checkpoint(model_path), "")
    if told.ok is False:
        return told
    from transformers import AutoTokenizer

    from ..dialect import Dialect, DialectError

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
    except OSError as error:
        if Path(model_path).exists():
            return Finding("model", False, str(error), "copy or download the tokenizer again")
        detail = f"{model_path} is not on this machine; it is downloaded when it is first served"
        return Finding("model", None, detail)
    try:
        dialect = Dialect.from_tokenizer(tokenizer)
    except DialectError as error:
        remedy = f"multiverse prepare-model {model_path} --out DIR adds tags; then train"
        return Finding("model", False, str(error), remedy)
    return Finding("model", True, f"dialect {dialect.name}")
