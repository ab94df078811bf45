"""Prints docs/compatibility.md: ``python -m sglang_multiverse.patches.compatibility``."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterable, Iterator

from sglang.srt.server_args import ServerArgs

from sglang_multiverse import SGLANG_VERSION

from .entry import REFUSED, WORKS, Arguments, Fields
from .environment import ENVIRONMENT
from .refusal import flag_of
from .request_fields import REQUESTS
from .server_arguments import ARGUMENTS

_HEAD = f"""# Compatibility

What becomes of every argument and request field of SGLang {SGLANG_VERSION} with the plugin on.
Printed by `python -m sglang_multiverse.patches.compatibility` from
[patches/compatibility](../patches/compatibility), which start-up reads too;
`tests/patches/test_compatibility.py` holds this page, the tables and SGLang's fields together.

- **works**: requests fork and join as without it. A test that is named has run the flags of its
  row; of a row of request fields it runs those that change an answer. Everything else is read in
  SGLang's code.
- **sequential**: the request decodes without forking, as on stock SGLang. If its prompt holds
  finished blocks it is refused with HTTP 400, except with a grammar or `multiverse: false`: those
  read the blocks as they were made and go on sequentially.
- **refused**: start-up ends, or the request gets an error, with a message. What touches scheduling,
  KV, attention or batches and has never been run with forks is refused. All flags of a refused
  feature are, so that nothing asked for is left out in silence. A flag at its default never is.

What needs another design, and why: [design limits](design-limits.md).
"""


def page() -> str:
    """The page as Markdown."""
    return "\n".join(
        [
            _HEAD,
            "## Server flags: refused",
            "",
            *_table(("flags", "what stands in the way", "remedy"), map(_refused, _having(REFUSED))),
            "",
            "## Server flags: works",
            "",
            *_table(("what", "flags", "rests on"), map(_works, _having(WORKS))),
            "",
            "## Request fields",
            "",
            *_table(("what", "outcome", "fields", "notes", "shown by"), map(_fields, REQUESTS)),
            "",
            "## Environment variables",
            "",
            *_table(("variable", "outcome", "notes"), _variables()),
            "",
        ]
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def _having(outcome: str) -> list[Arguments]:
    return [entry for entry in ARGUMENTS if entry.outcome == outcome]


def _refused(entry: Arguments) -> tuple[str, ...]:
    served = f" (served: {_code(map(str, entry.served))})" if entry.served else ""
    return (f"**{entry.topic}**: {_flags(entry)}{served}", entry.why, entry.remedy)


def _works(entry: Arguments) -> tuple[str, ...]:
    return (entry.topic, _flags(entry), f"`{entry.test}`" if entry.test else entry.why)


def _fields(entry: Fields) -> tuple[str, ...]:
    places = (
        ("`/generate`", entry.generate),
        ("`sampling_params`", entry.sampling),
        ("completions", entry.completions),
        ("chat", entry.chat),
    )
    names = "; ".join(f"{place}: {_code(found.split())}" for place, found in places if found)
    outcome = entry.outcome if entry.outcome == WORKS else f"**{entry.outcome}**"
    return (entry.topic, outcome, names, entry.why, f"`{entry.test}`" if entry.test else "")


def _variables() -> Iterator[tuple[str, ...]]:
    for variable in ENVIRONMENT:
        remedy = f"; {variable.remedy}" if variable.remedy else ""
        yield f"`{variable.name}`", variable.outcome, f"{variable.why}{remedy}"


@functools.cache
def _typed() -> frozenset[str]:
    """Fields that the command line takes."""
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return frozenset(action.dest for action in parser._actions)


def _flags(entry: Arguments) -> str:
    return _code(flag_of(name) if name in _typed() else name for name in entry.fields)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(page(), end="")
