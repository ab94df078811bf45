"""The shape gate: how deep, how wide, and whether nested numbers say where they stand."""

from __future__ import annotations

from ...finding import Finding
from ..options import GateOptions
from .located import Located


def check_shape(located: Located, options: GateOptions) -> list[Finding]:
    """Depth, width, the presence of a block and the numbering of nested ones."""
    findings: list[Finding] = []

    def note(code: str, message: str, span: tuple[int, int]) -> None:
        findings.append(Finding(code, message, span, gate="shape"))

    for block, parent in located.walk_with_parent():
        if block.depth > options.max_depth:
            note(
                "too-deep",
                f"a block at depth {block.depth}, at most {options.max_depth}; write its paths one "
                "after another, without a block",
                block.span,
            )
        width = len(block.paths)
        if width > options.max_branches:
            note(
                "too-wide",
                f"a block of {width} paths, at most {options.max_branches}; join those that "
                "belong together",
                block.span,
            )
        prefix = f"{parent.label}." if parent is not None and parent.label else ""
        first = block.outlines[0].label or f"{prefix}1"
        if first.rpartition(".")[0] != prefix.rstrip("."):
            wanted = f"{prefix}1, {prefix}2, …"
            where = f"inside path {parent.label}" if parent is not None else "not inside a path"
            note(
                "nested-number",
                f"a block {where} is numbered from {first}; number it {wanted}",
                block.span,
            )
    if options.require_block and not located.blocks:
        note("no-block", "nothing is parallel here; use it as sequential data", (0, 0))
    return findings
