"""The ``multiverse`` command. Each subcommand is a module with a function ``command``; heavy
packages are imported inside it, so that ``multiverse --help`` answers at once."""

from __future__ import annotations

from typing import Any

import typer

import sglang_multiverse

from . import (
    analyse,
    bench,
    curate,
    demo,
    doctor,
    evaluate,
    grpo,
    inspect,
    prepare,
    serve,
    sft,
    show,
    stress,
    watch,
)

app = typer.Typer(
    name="multiverse",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sglang-multiverse {sglang_multiverse.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Natively parallel generation: fork, join, and everything around them."""


_FORWARDS: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
app.add_typer(analyse.app)
app.add_typer(bench.app)
app.add_typer(curate.app)
app.command("demo")(demo.command)
app.command("doctor")(doctor.command)
app.add_typer(evaluate.app)
app.command("fuzz")(stress.fuzz)
app.command("grpo", context_settings={**_FORWARDS, "help_option_names": []})(grpo.command)
app.command("inspect")(inspect.command)
app.command("merge-adapter")(prepare.merge)
app.command("prepare-model")(prepare.command)
app.command("serve", context_settings=_FORWARDS)(serve.command)
app.command("show")(show.command)
app.command("soak")(stress.soak)
app.command("sft", context_settings={**_FORWARDS, "help_option_names": []})(sft.command)
app.command("watch")(watch.command)
