"""Every kind of corruption is caught by the code it should be caught by."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.gates import OPTIONS, Caught, Table, measure
from sglang_multiverse.data_pipeline.gates import CURATION, MODEL_OUTPUT, check_document
from sglang_multiverse.flatten import flatten_text
from tests.conftest import Rows
from tests.data_pipeline.mutations import MUTATIONS, synthetic

#: What intact real outputs hold: 23 were cut at the length limit, 11 have paths that open with a
#: transition. Nothing else may be found in them.
DECLARED = {"unclosed-think", "transitional-opening"}


def missed(table: Table) -> list[str]:
    return [
        f"{one.mutation.kind}: {one.right} of {one.texts} by {sorted(one.mutation.codes)}"
        for one in table.kinds
        if one.right < one.texts
    ]


def unexpected(table: Table) -> dict[str, dict[str, int]]:
    return {one.mutation.kind: dict(one.unexpected) for one in table.kinds if one.unexpected}


def test_there_are_corruptions_for_every_gate() -> None:
    assert {one.gate for one in MUTATIONS} == {
        "grammar",
        "shape",
        "coverage",
        "content",
        "answer",
        "independence",
    }
    assert len(MUTATIONS) >= 45


@pytest.fixture(scope="module")
def on_synthetic() -> Table:
    return measure([synthetic(seed) for seed in range(3)])


def test_every_corruption_of_our_own_texts_is_caught(on_synthetic: Table) -> None:
    assert [one.mutation.kind for one in on_synthetic.kinds if not one.texts] == []
    assert missed(on_synthetic) == []
    assert unexpected(on_synthetic) == {}


@pytest.mark.parametrize("seed", range(5))
def test_intact_texts_of_our_own_are_accepted(seed: int) -> None:
    text = synthetic(seed)
    assert check_document(text, source=flatten_text(text), options=OPTIONS) == []


def test_intact_real_texts_hold_nothing_but_what_is_declared(
    traces: Callable[[str], Rows],
) -> None:
    found = []
    for row in traces("wellformed"):
        text = row["output"]
        findings = check_document(text, source=flatten_text(text), options=OPTIONS)
        found.append({finding.code for finding in findings})
    assert set().union(*found) <= DECLARED
    assert sum("unclosed-think" in codes for codes in found) == 23
    assert sum("transitional-opening" in codes for codes in found) == 11


def test_corruptions_of_real_texts_are_caught(traces: Callable[[str], Rows]) -> None:
    """A sample; ``python benchmarks/gates.py --traces …`` takes them all."""
    texts = [row["output"] for row in traces("wellformed") if len(row["output"]) < 9000][:8]
    table = measure(texts, seed=1)
    assert missed(table) == []
    total = sum(one.texts for one in table.kinds)
    surprising = sum(sum(one.unexpected.values()) for one in table.kinds)
    assert total > 250 and surprising <= total // 50


def test_well_formed_outputs_are_accepted_and_malformed_ones_rejected(
    traces: Callable[[str], Rows],
) -> None:
    labels = {row["id"]: row["category"] for row in traces("labels")}
    for name in ("wellformed", "plain"):
        for row in traces(name):
            assert check_document(row["output"], options=MODEL_OUTPUT) == []
    for row in traces("malformed"):
        word_only = labels[row["id"]][:2] in ("N3", "P3")  # a tag used as a word, otherwise fine
        findings = check_document(row["output"], options=MODEL_OUTPUT)
        assert bool(findings) != word_only
        assert bool(findings) <= bool(check_document(row["output"], options=CURATION))


def test_a_corruption_that_goes_unnoticed_would_be_seen() -> None:
    """The table itself can fail: a corruption that does nothing counts as missed."""
    idle = Caught(MUTATIONS[0].__class__("idle", "grammar", frozenset({"x"}), frozenset(), None))
    idle.texts = 1
    assert missed(Table([idle], {})) == ["idle: 0 of 1 by ['x']"]
