"""``multiverse bench``: what fork and join cost and bring on the machine at hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..corpus import BadRow
from .refusal import need
from .traces import read

if TYPE_CHECKING:
    from ..bench.shapes import Shape
    from ..bench.weights import Size

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    help="Measure fork and join: steps, wall-clock time, costs, and the tax on plain traffic. "
    "Starts servers of random weights that write scripted texts; nobody else should be using "
    "the machine.",
)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_Quick = Annotated[bool, typer.Option("--quick", help="A small selection, in a minute or two.")]
_Seed = Annotated[int, typer.Option(help="Makes the same texts again.")]
_Cache = Annotated[
    Path | None,
    typer.Option(
        help="Where the weights are kept [default: `$SGLANG_MULTIVERSE_CACHE`, else "
        "`~/.cache/sglang-multiverse`]."
    ),
]
_Model = Annotated[
    Path | None,
    typer.Option(help="Checkpoint to measure with [default: random weights made for it]."),
]
_Traces = Annotated[
    list[Path] | None,
    typer.Option(
        help="JSON lines with real traces, whose structures are added; may be given again."
    ),
]
_TraceTokens = Annotated[
    int, typer.Option(min=50, help="Tokens of text that longer traces are scaled down to.")
]
_Backend = Annotated[
    bool,
    typer.Option(
        "--backend", help="Fork on `--attention-backend multiverse`, not on the stock backend."
    ),
]


@app.command()
def steps(
    paths: Annotated[str, typer.Option(help="Numbers of paths.")] = "1,2,3,4,6,8",
    lengths: Annotated[str, typer.Option(help="Tokens of a path.")] = "50,200,800,2000",
    batches: Annotated[str, typer.Option(help="Texts at once.")] = "1,8",
    traces: _Traces = None,
    trace_texts: Annotated[int, typer.Option(help="How many of the traces.")] = 24,
    trace_tokens: _TraceTokens = 1500,
    backend: _Backend = False,
    quick: _Quick = False,
    seed: _Seed = 0,
    model: _Model = None,
    cache: _Cache = None,
    as_json: _Json = False,
) -> None:
    """Count forward steps against critical-path and sequential tokens."""
    if quick:
        paths, lengths, trace_texts, trace_tokens = "1,2,4", "50", 4, 200
    from ..bench.weights import COUNT

    def work(folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
        from transformers import AutoTokenizer

        from ..bench import steps as bench
        from ..bench.shapes import Author

        scripts = bench.suite(
            Author(AutoTokenizer.from_pretrained(folder)),
            paths=_ints(paths, "--paths"),
            lengths=_ints(lengths, "--lengths"),
            traces=_shapes(traces, trace_texts, trace_tokens),
            seed=seed,
        )
        way = "multiverse" if backend else "plugin"
        return bench.run(scripts, _ints(batches, "--batches"), folder, tell, way=way)

    _run(work, "steps", COUNT, model, cache, as_json=as_json)


@app.command()
def serve(
    degrees: Annotated[
        str, typer.Option(help="Degrees of parallelism, 1.0 to 6.")
    ] = "1.0,1.3,1.5,2,3,4",
    batches: Annotated[str, typer.Option(help="Texts at once.")] = "1,8",
    path_tokens: Annotated[int, typer.Option(min=10, help="Tokens of a path.")] = 60,
    long: Annotated[
        str, typer.Option(help="Further texts, alone: `DEGREE:PATH_TOKENS`, several with commas.")
    ] = "2:500",
    traces: _Traces = None,
    trace_texts: Annotated[int, typer.Option(help="How many of the traces.")] = 2,
    trace_tokens: _TraceTokens = 400,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each way, in turn.")] = 3,
    ways: Annotated[
        str, typer.Option(help="What to compare; stock and at least one of the last two.")
    ] = "stock,client,plugin,multiverse",
    stream: Annotated[bool, typer.Option("--stream", help="Read streams of events.")] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw speed-up by degree into this file as well.")
    ] = None,
    quick: _Quick = False,
    seed: _Seed = 0,
    model: _Model = None,
    cache: _Cache = None,
    as_json: _Json = False,
) -> None:
    """Time the same texts on stock SGLang, by client-side fork and join, and with the plugin.

    *ideal* is the speed-up that this machine's own step times allow for the same forwards.
    """
    if quick:
        degrees, batches, path_tokens, long, repeats, trace_texts = "1.0,2", "1", 40, "", 2, 1
    from ..bench.weights import SPEED

    def work(folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
        from ..bench import serve as bench

        plan = bench.Plan(
            degrees=_floats(degrees, "--degrees"),
            batches=_ints(batches, "--batches"),
            path_tokens=path_tokens,
            long=_long(long),
            traces=_shapes(traces, trace_texts, trace_tokens),
            repeats=repeats,
            ways=_ways(ways),
            stream=stream,
            seed=seed,
        )
        result = bench.run(plan, folder, tell)
        if figure is not None:
            from ..bench.figure import draw

            draw(result, figure)
        return result

    _run(work, "serve", SPEED, model, cache, as_json=as_json)


@app.command()
def fork(
    paths: Annotated[str, typer.Option(help="Numbers of paths.")] = "2,4,8",
    path_tokens: Annotated[int, typer.Option(min=10, help="Tokens of a path.")] = 60,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 5,
    backend: _Backend = False,
    quick: _Quick = False,
    seed: _Seed = 0,
    model: _Model = None,
    cache: _Cache = None,
    as_json: _Json = False,
) -> None:
    """Time a fork, a join, a retraction with its replay, and a second turn."""
    if quick:
        paths, path_tokens, repeats = "2,4", 24, 2
    from ..bench.weights import SPEED

    def work(folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
        from ..bench import fork as bench

        plan = bench.Plan(_ints(paths, "--paths"), path_tokens, repeats, seed)
        return bench.run(plan, folder, tell, way="multiverse" if backend else "plugin")

    _run(work, "fork", SPEED, model, cache, as_json=as_json)


@app.command()
def tax(
    batches: Annotated[str, typer.Option(help="Plain requests at once.")] = "1,8",
    tokens: Annotated[int, typer.Option(min=8, help="Tokens of each.")] = 64,
    pairs: Annotated[int, typer.Option(min=2, help="Runs with and without the plugin.")] = 40,
    hook_batches: Annotated[
        str, typer.Option(help="Rows of the steps in which hooks are timed; empty leaves it out.")
    ] = "1,4,16,64,256",
    backend: _Backend = False,
    quick: _Quick = False,
    seed: _Seed = 0,
    model: _Model = None,
    cache: _Cache = None,
    as_json: _Json = False,
) -> None:
    """Compare plain traffic with and without the plugin, and time the plugin's hooks."""
    if quick:
        tokens, pairs, hook_batches = 24, 6, "1,16"
    from ..bench.weights import COUNT, SPEED, default_cache, random_weights

    def work(folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
        from ..bench import hook_times
        from ..bench import tax as bench

        way = "multiverse" if backend else "plugin"
        plan = bench.Plan(_ints(batches, "--batches"), tokens, pairs, seed)
        result = bench.run(plan, folder, tell, way=way)
        if hook_batches:
            # What a hook takes does not depend on the weights; the rest of a step is short here.
            small = random_weights(COUNT, cache or default_cache())
            rows = _ints(hook_batches, "--hook-batches")
            result["hooks"] = hook_times.run(rows, 64, small, tell, way=way)
        return result

    _run(work, "tax", SPEED, model, cache, as_json=as_json)


def _run(
    work: Callable[[Path, Callable[[str], None]], dict[str, Any]],
    name: str,
    size: Size,
    model: Path | None,
    cache: Path | None,
    *,
    as_json: bool,
) -> None:
    from rich.console import Console

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    console = Console(stderr=True)

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    need("serve", "sglang")
    from ..bench import tables
    from ..bench.ways import BenchError
    from ..bench.weights import default_cache, parameters, random_weights
    from ..server import ServerError

    try:
        folder = model or random_weights(size, cache or default_cache())
        result = work(folder, tell)
    except (ServerError, BenchError, OSError, ImportError) as error:
        console.print(f"{error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error
    result["machine"] = _machine(parameters(folder) if model is None else None)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        for table in getattr(tables, name)(result):
            Console().print(table)


def _machine(parameters: int | None) -> dict[str, Any]:
    """What a figure needs beside it to be understood."""
    import platform

    from ..server import accelerator, platform_env

    device = accelerator()
    return {
        "device": device or platform.processor() or "cpu",
        "cores": os.cpu_count(),
        "threads": platform_env(device).get("OMP_NUM_THREADS"),
        "load_average": os.getloadavg()[0],
        "parameters": parameters,
    }


def _shapes(files: list[Path] | None, texts: int, tokens: int) -> list[Shape]:
    """Structures of the first traces that finish a block, none of more than ``tokens`` of text."""
    from ..bench.shapes import of_trace

    found: list[Shape] = []
    for file in files or ():
        for entry in read(str(file)):
            if isinstance(entry, BadRow):
                raise typer.BadParameter(str(entry))
            shape = of_trace(entry.text)
            if shape is not None and len(found) < texts:
                found.append(shape.scaled(min(1.0, tokens / shape.text)))
    return found


def _ways(text: str) -> list[str]:
    from ..bench.servers import WAYS

    ways = text.split(",")
    if not set(ways) <= set(WAYS) or "stock" not in ways or not {*ways} & {"plugin", "multiverse"}:
        raise typer.BadParameter(
            f"--ways {text!r}: stock and some of {', '.join(WAYS[1:])}, at least one that forks"
        )
    return ways


def _ints(text: str, flag: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{flag} {text!r}: whole numbers with commas between") from None


def _floats(text: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{flag} {text!r}: numbers with commas between") from None


def _long(text: str) -> list[tuple[float, int]]:
    try:
        parts = [part.split(":") for part in text.split(",") if part]
        return [(float(degree), int(length)) for degree, length in parts]
    except ValueError:
        raise typer.BadParameter(f"--long {text!r}: write DEGREE:PATH_TOKENS, as 2:500") from None
