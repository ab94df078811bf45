"""Policy of branching: how many paths may decode while others share the batch.

A fork is never declined by it. A path that may not start yet waits in the coordinator's queue, so
the text, the KV and the layout are those of an unbounded run; only the schedule differs. Every
decision is a function of counts of rows, never of time, so all tensor-parallel ranks decide alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

_BOUNDED = re.compile(r"(cap|load):([1-9][0-9]{0,8})")

FORMS = "eager, cap:N or load:N with N >= 1"


@dataclass(frozen=True)
class Policy:
    """When a waiting path may start beside what decodes already.

    Attributes:
        kind: ``eager`` starts every path at once; ``cap`` keeps each request to ``rows`` decoding
            paths; ``load`` starts a request's second and later paths only while the running batch
            stays within ``rows`` rows, whoever they belong to.
        rows: the bound; None for ``eager``.
    """

    kind: str = "eager"
    rows: int | None = None

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Read ``eager``, ``cap:N`` or ``load:N``.

        Raises:
            ValueError: another text; the message names the forms.
        """
        if text == "eager":
            return cls()
        found = _BOUNDED.fullmatch(str(text))
        if found is None:
            raise ValueError(f"a policy of branching is {FORMS}, got {text!r}")
        return cls(found[1], int(found[2]))

    def __str__(self) -> str:
        return self.kind if self.rows is None else f"{self.kind}:{self.rows}"

    def admits(self, live: int, running: int) -> bool:
        """Whether one path more may start.

        Args:
            live: paths of its request that decode, or have been chosen to.
            running: rows of all requests that decode, or have been chosen to.
        """
        if live == 0 or self.rows is None:
            return True  # a request always has a path that makes progress
        return (live if self.kind == "cap" else running) < self.rows


class _Options(Protocol):
    @property
    def max_live_rows(self) -> int | None: ...


class _Tree(Hashable, Protocol):
    @property
    def options(self) -> _Options: ...

    def live(self) -> int: ...


class Admission:
    """The counts of one scheduling step: which paths may start in it.

    Args:
        running: rows that decode already.
    """

    def __init__(self, policy: Policy, running: int):
        self.policy = policy
        self.running = running
        self._live: dict[Hashable, int] = {}

    def admits(self, tree: _Tree) -> bool:
        """Whether a path of ``tree`` may start, by the policy and the request's own bound."""
        bound = tree.options.max_live_rows
        if bound is None and self.policy.rows is None:
            return True
        live = self._live.get(tree)
        if live is None:
            live = self._live[tree] = tree.live()
        return self.policy.admits(live, self.running) and (
            live == 0 or bound is None or live < bound
        )

    def start(self, tree: _Tree) -> None:
        """A row of ``tree`` that will decode has been chosen."""
        self.running += 1
        if tree in self._live:
            self._live[tree] += 1


_Row = TypeVar("_Row")


def in_turn(
    rows: Sequence[_Row], *, starts: Callable[[_Row], bool], arrival: Callable[[_Row], object]
) -> list[_Row]:
    """``rows`` in the order to consider them: first what ends, joins or rebuilds, then starting
    paths, those of the oldest request first; otherwise in the order given.

    A row that ends or joins never rests on one that starts a path, so nothing overtakes what it
    depends on.
    """
    going = [row for row in rows if not starts(row)]
    starting = [row for row in rows if starts(row)]
    starting.sort(key=arrival)  # type: ignore[arg-type]
    return going + starting
