"""Outlines: read from what an LLM writes, rendered again, and checked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_multiverse.data_pipeline.gates import check_outline
from sglang_multiverse.data_pipeline.outline import Group, Outline, Step, parse_outline

TREE = """S1: Understand
<parallel>
Reason: neither needs the other.
<branch>
S2: The even case
<parallel>
Reason: two bounds.
<branch>
S2.1: Lower bound
</branch>
<branch>
S2.2: Upper bound
</branch>
</parallel>
S2.3: Both
</branch>
<branch>
S3: The odd case
S4: Check it
</branch>
</parallel>
S5: Compare
"""


def codes(outline: Outline | str, **options: object) -> list[str]:
    tree = parse_outline(outline) if isinstance(outline, str) else outline
    return [finding.code for finding in check_outline(tree, **options)]


def test_the_tree_is_read() -> None:
    outline = parse_outline(TREE)
    first, group, last = outline.parts
    assert isinstance(first, Step) and isinstance(group, Group) and isinstance(last, Step)
    even, odd = group.branches
    assert [step.label for step in odd if isinstance(step, Step)] == ["S3", "S4"]
    assert isinstance(even[0], Step)
    inner, both = even[0].parts
    assert isinstance(inner, Group) and isinstance(both, Step) and both.label == "S2.3"
    assert [depth for _, depth in outline.groups()] == [1, 2]
    assert [step.label for step in outline.steps()] == ["S1", "S2", "S2.1", "S2.2", "S2.3", "S3",
                                                        "S4", "S5"]  # fmt: skip
    assert codes(outline) == []


def test_spans_point_at_the_texts() -> None:
    for step in parse_outline(TREE).steps():
        assert TREE[slice(*step.span)].strip() == step.text


def test_rendering_reads_as_itself() -> None:
    assert parse_outline(TREE).render() == TREE


@pytest.mark.parametrize(
    "dressed",
    [
        "Here is the tree:\n\n```\n" + TREE + "```\n",
        "\n".join("  " + line for line in TREE.splitlines()),
        TREE.replace("S1:", "**S1:**").replace("S3: ", "- **S3**: ").replace("S5:", "* S5."),
        TREE.replace("<parallel>\nReason: two bounds.", "<Parallel> two bounds."),
    ],
    ids=["fenced", "indented", "markdown", "reason on the line"],
)
def test_dress_does_not_count(dressed: str) -> None:
    labels = [step.label for step in parse_outline(TREE).steps()]
    outline = parse_outline(dressed)
    assert [step.label for step in outline.steps()] == labels
    assert next(outline.steps()).text == "Understand"
    assert codes(outline) == []


def test_steps_of_a_group_without_branches_are_its_branches() -> None:
    outline = parse_outline("<parallel>\nS1: a\nS1.1: b\nS2: c\n</parallel>\n")
    (group,) = outline.parts
    assert isinstance(group, Group)
    assert [[part.label for part in branch] for branch in group.branches] == [["S1"], ["S2"]]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ["no-steps", "no-group"]),
        ("S1: a\nS2: b\n", ["no-group"]),
        (TREE.replace("S4: Check it\n", "S3: Check it\n"), ["repeated-step", "missing-step"]),
        (TREE.replace("S3: The odd case\n", ""), ["missing-step"]),
        (TREE.replace("S2.1: Lower bound", "S2.2: Lower").replace("S2.2: Upper", "S2.1: Upper"),
         ["missing-step", "step-order"]),
        (TREE.replace("S2.3: Both", "S2.3:"), ["empty-step"]),
        (TREE.replace("S2.3: Both", "S2.2.1: Both"), ["step-too-deep"]),
        (TREE.replace("</branch>\n<branch>\nS3", "S3"), ["single-branch"]),
        (TREE.replace("S5: Compare\n", "S7.1: Compare\n"), ["orphan-step"]),
        (TREE.replace("</parallel>\nS5", "S5"), ["unclosed-group", "step-outside-branch"]),
        (TREE + "</parallel>\n", ["stray-tag"]),
        (TREE + "<branch>\nS6: a\n</branch>\n", ["stray-branch", "single-branch"]),
    ],
)  # fmt: skip
def test_what_is_wrong_has_its_code(text: str, wanted: list[str]) -> None:
    assert codes(text) == wanted


def test_depth_and_width_are_bounded() -> None:
    from sglang_multiverse.data_pipeline.gates import GateOptions

    assert codes(TREE, options=GateOptions(max_depth=1)) == ["too-deep"]
    wide = "<parallel>\n" + "".join(f"S{n}: a\n" for n in range(1, 18)) + "</parallel>\n"
    assert codes(wide) == ["too-wide"]


def test_the_tree_is_held_to_the_list_it_was_made_of() -> None:
    listed = parse_outline("S1: a\nS2: b\nS2.1: c\nS2.2: d\nS2.3: d\nS3: e\nS4: f\nS5: g\nS6: h\n")
    assert codes(TREE, listed=listed) == ["missing-step"]
    assert codes(TREE, listed=parse_outline("S1: a")) == ["added-step"] * 7


lines = st.sampled_from(
    ["S1: a", "S1.1: b", "S2: c", "S2.1.3: d", "S3:", "<parallel>", "</parallel>", "<branch>",
     "</branch>", "text", "", "Reason: x", "```"]
)  # fmt: skip


@given(st.lists(lines, max_size=25).map("\n".join))
def test_nothing_makes_it_raise_and_what_it_accepts_reads_as_itself(text: str) -> None:
    outline = parse_outline(text)
    findings = check_outline(outline)
    if not findings:
        again = parse_outline(outline.render())
        assert again.render() == outline.render()
        assert check_outline(again) == []
