"""The entries of the tables: what happens, to which names, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Forks and joins as without it.
WORKS = "works"
#: The request decodes without forking.
SEQUENTIAL = "sequential"
#: Start-up ends, or the request gets an error, with a message.
REFUSED = "refused"


@dataclass(frozen=True)
class Arguments:
    """Fields of ``ServerArgs`` that share an outcome and its reason.

    Attributes:
        outcome: WORKS or REFUSED; a field at its default is never refused.
        topic: what the fields are about.
        names: the fields, separated by blanks.
        why: WORKS: what it rests on, where no test is named. REFUSED: what stands in the way.
        remedy: REFUSED: what to do instead.
        served: REFUSED: values besides the default that are served.
        test: the test file that runs it; shown once the outcome is WORKS.
    """

    outcome: str
    topic: str
    names: str
    why: str = ""
    remedy: str = ""
    served: tuple[Any, ...] = ()
    test: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.names.split())


@dataclass(frozen=True)
class Fields:
    """Fields of request bodies that share an outcome and its reason.

    Attributes:
        outcome: WORKS, SEQUENTIAL or REFUSED.
        topic: what the fields are about.
        why: SEQUENTIAL: what triggers it. REFUSED: the message and its status.
        generate: fields of ``GenerateReqInput`` (``/generate``, ``sgl.Engine``).
        sampling: fields of ``SamplingParams``.
        completions: fields of ``/v1/completions``.
        chat: fields of ``/v1/chat/completions``.
        test: the test file that shows it.
    """

    outcome: str
    topic: str
    why: str = ""
    generate: str = ""
    sampling: str = ""
    completions: str = ""
    chat: str = ""
    test: str = ""


@dataclass(frozen=True)
class Variable:
    """An environment variable that changes what is served.

    Attributes:
        outcome: WORKS or REFUSED.
        name: as it is set.
        why: WORKS: what it does. REFUSED: what stands in the way.
        remedy: REFUSED: what to do instead.
    """

    outcome: str
    name: str
    why: str
    remedy: str = ""
