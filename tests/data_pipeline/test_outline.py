"""Outlines: read from what an LLM writes, rendered again, and checked."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_multiverse.data_pipeline.gates import check_fill, check_outline
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


# --- the fill ---------------------------------------------------------------------------------

SOURCE = (
    "We read it. It says n.\n\nEven: the lower bound is 3. The upper bound is 4. So both hold.\n"
    "Odd it is 5. Check that it is 5. Compare them all. Compare them all."
)
FILL = """S1: We read it. It says n.
<parallel>
Reason: neither needs the other.
<branch>
S2:
<parallel>
<branch>
S2.1: Even: the lower bound is 3.
</branch>
<branch>
S2.2: The upper bound
  is 4.
</branch>
</parallel>
S2.3: So both hold.
</branch>
<branch>
S3: Odd it is 5.
S4: Check that it is 5.
</branch>
</parallel>
S5: Compare them all.
Compare them all.
"""


def fill_codes(text: str) -> list[tuple[str, str]]:
    findings = check_fill(SOURCE, parse_outline(TREE), parse_outline(text))
    where = {"text": text, "source": SOURCE}
    return [(f.code, where[f.span_in][slice(*f.span)] if f.span else "") for f in findings]


def test_a_whole_fill_has_no_findings() -> None:
    assert fill_codes(FILL) == []
    assert fill_codes("Here it is:\n\n" + FILL) == []


def test_an_inserted_step_is_welcome() -> None:
    assert fill_codes(FILL.replace("It says n.", "\nS1.1: It says n.")) == []


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("So both hold.", "", [("missing-sentence", "So both hold.")]),
        ("So both hold.", "So both hold. So both hold.",
         [("duplicated-sentence", "So both hold.")]),
        ("Check that it is 5.", "Check that it is 6.",
         [("changed-sentence", "Check that it is 5.")]),
        ("Odd it is 5.", "Odd it is 5. I like otters.", [("added-text", "I like otters.")]),
        ("We read it. It says n.", "It says n. We read it.", [("moved-sentence", "It says n.")]),
        ("Compare them all.\nCompare them all.", "Compare them all.",
         [("missing-sentence", "Compare them all.")]),
        ("S4:", "", []),
        ("<parallel>\nReason: neither needs the other.\n", "", None),
    ],
)  # fmt: skip
def test_what_the_fill_does_wrong(old: str, new: str, wanted: list[tuple[str, str]] | None) -> None:
    assert old in FILL
    found = fill_codes(FILL.replace(old, new, 1))
    if wanted is None:
        assert "changed-groups" in {code for code, _ in found}
    elif not wanted:
        assert {code for code, _ in found} == {"missing-step"}
    else:
        assert found == wanted


words = st.sampled_from(["red", "blue", "3", "x = 4", "green", "up"])
sentence = st.lists(words, min_size=2, max_size=6).map(lambda w: " ".join(w) + ".")


@given(st.lists(sentence, min_size=1, max_size=12), st.data())
def test_any_split_of_the_source_fills_it(source: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(source)), max_size=3)) | {0, len(source)})
    spaces = st.sampled_from([" ", "\n", "  \n "])
    text = "".join(
        f"S{n}: " + "".join(one + data.draw(spaces) for one in source[a:b]) + "\n"
        for n, (a, b) in enumerate(pairwise(cuts), start=1)
    )
    filled = parse_outline(text)
    bare = Outline(tuple(Step(step.label, "x") for step in filled.steps()))
    assert check_fill(" ".join(source), bare, filled) == []


@given(st.lists(sentence, min_size=2, max_size=10, unique=True), st.data())
def test_a_sentence_left_out_is_named(source: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, len(source) - 1))
    text = "S1: " + " ".join(one for index, one in enumerate(source) if index != gone)
    whole = " ".join(source)
    found = check_fill(whole, Outline((Step("S1", "x"),)), parse_outline(text))
    assert [whole[slice(*f.span)] for f in found if f.span and f.span_in == "source"] == [
        source[gone]
    ]
