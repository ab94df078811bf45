"""What a gate finds wrong with a text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Gate = Literal[
    "outline",
    "grammar",
    "shape",
    "coverage",
    "content",
    "faithful",
    "answer",
    "independence",
    "benefit",
]


@dataclass(frozen=True)
class Finding:
    """One thing wrong, for the reader of a report and for the LLM that is to repair it.

    Attributes:
        code: what is wrong, in kebab-case; codes are counted.
        message: what is wrong and what to do about it.
        span: where, in characters.
        gate: which gate says so.
        span_in: which text ``span`` counts in: the one checked, or the source it is compared with.
    """

    code: str
    message: str
    span: tuple[int, int] | None = None
    gate: Gate = "grammar"
    span_in: Literal["text", "source"] = "text"

    def row(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def codes(findings: list[Finding]) -> list[str]:
    """The distinct codes of ``findings``, in order of appearance."""
    return list(dict.fromkeys(finding.code for finding in findings))
