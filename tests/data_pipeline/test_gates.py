"""What each gate finds, where, and what it lets pass."""

from __future__ import annotations

import pathlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.data_pipeline.finding import Finding
from sglang_multiverse.data_pipeline.gates import (
    CURATION,
    MODEL_OUTPUT,
    GateOptions,
    check_block,
    check_document,
    final_answer,
    flatten_costly_blocks,
    judge_independence,
    renumber,
)
from sglang_multiverse.data_pipeline.gates.meaning.content import check_content, kept_spans
from sglang_multiverse.data_pipeline.gates.meaning.equivalence import (
    Equivalence,
    EquivalenceError,
    Verdict,
)
from sglang_multiverse.data_pipeline.gates.meaning.independence import check_independence
from sglang_multiverse.data_pipeline.gates.meaning.normal import normal
from sglang_multiverse.data_pipeline.gates.text.located import locate
from sglang_multiverse.flatten import flatten_text
from sglang_multiverse.lexer import lex
from sglang_multiverse.parallelism import parallelism
from sglang_multiverse.structure import parse
from sglang_multiverse.text import (
    Block,
    Conclusion,
    Content,
    Document,
    Outline,
    Path,
    parse_text,
    serialise,
)
from tests.conftest import Rows
from tests.data_pipeline.mutations import synthetic

TEXT = synthetic(0)
BLOCK = (
    "Let's think in parallel.\n<Parallel>\n<Goal>\n<Outline>\n1: Add.\n</Outline>\n<Outline>\n"
    "2: Subtract.\n</Outline>\n</Goal>\n<Path>\n1: Adding 12 and 30 gives 42.\n</Path>\n<Path>\n"
    "2: Subtracting 12 from 29 gives 17.\n</Path>\n<Conclusion>\n42 and 17.\n</Conclusion>\n"
    "</Parallel>"
)


def whole(block: str = BLOCK) -> str:
    return f"<Think>\nTwo sums.\n{block}\nSo it is 42.\n</Think>\n\nAnswer: 42"


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


# --- grammar and shape ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_well_formed_text_has_no_findings(seed: int) -> None:
    text = synthetic(seed)
    options = replace(CURATION, strict_coverage=True)
    assert check_document(text, source=flatten_text(text), options=options) == []


def test_a_tag_used_as_a_word_is_a_word() -> None:
    text = whole().replace("Two sums.", "The <Path> form, and </Parallel> in a line.")
    assert check_document(text) == []


def test_a_finding_points_at_its_place() -> None:
    text = whole().replace("</Path>\n<Path>\n2", "<Path>\n2")
    (finding,) = check_document(text)
    assert finding.code == "unclosed-path" and finding.span is not None
    assert text[slice(*finding.span)].startswith("<Path>\n1: Adding")
    assert "</Path>" in finding.message


def test_a_cut_text_is_good_as_model_output_only() -> None:
    cut = whole().split("</Think>")[0]
    assert codes(check_document(cut)) == ["unclosed-think"]
    assert check_document(cut, options=MODEL_OUTPUT) == []
    inside = whole().split("2: Subtracting")[0]
    assert "unclosed-path" in codes(check_document(inside, options=MODEL_OUTPUT))


lines = st.sampled_from(
    [f"<{slash}{name}>" for name in ("Think", "Parallel", "Goal", "Outline", "Path", "Conclusion")
     for slash in ("", "/")]
    + ["1: a", "2: b", "1.1: c", "text", "", "Let's think in parallel."]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(lines, max_size=30).map("\n".join), st.sampled_from([CURATION, MODEL_OUTPUT]))
def test_no_soup_of_tags_makes_a_gate_raise(text: str, options: GateOptions) -> None:
    for finding in check_document(text, options=options):
        assert finding.span is None or 0 <= finding.span[0] <= finding.span[1] <= len(text)


edits = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40), lines), max_size=3)


@settings(deadline=None, max_examples=300)
@given(edits)
def test_what_is_accepted_is_canonical(changes: list[tuple[int, int, str]]) -> None:
    """Whatever is done to a good text: the gates never accept what strict parsing refuses."""
    parts = whole().split("\n")
    for kind, at, line in changes:
        at %= len(parts)
        parts[at : at + (kind != 0)] = [line] * (kind != 1)
    text = "\n".join(parts)
    if not check_document(text):
        assert parse_text(text).canonical


# --- numbering --------------------------------------------------------------------------------


def _walk_labels(content: Content, prefix: str = "") -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for part in content:
        if isinstance(part, str):
            continue
        for number, (outline, path) in enumerate(zip(part.outlines, part.paths, strict=True), 1):
            label = f"{prefix}{number}"
            found += [(label, outline.label), (label, path.label)]
            found += _walk_labels(path.content, f"{label}.")
    return found


labels = st.one_of(st.none(), st.sampled_from(["1", "7", "2.2", "1.1.1"]))


@st.composite
def blocks(draw: st.DrawFn, depth: int = 2) -> Block:
    n = draw(st.integers(2, 4))
    words = st.sampled_from(["red", "green apples", "it is 4", "x"])
    body = st.lists(words, min_size=1, max_size=30).map(lambda w: f" {' '.join(w)}.\n")

    def path() -> Path:
        content: Content = [draw(body)]
        if depth > 1 and draw(st.integers(0, 3)) == 0:
            content.append(draw(blocks(depth - 1)))
            content.append(f"{draw(body).strip()}\n")
        return Path(draw(labels), content)

    return Block(
        [Outline(draw(labels), " Do.") for _ in range(n)],
        [path() for _ in range(n)],
        Conclusion(["Done."]),
    )


@st.composite
def documents(draw: st.DrawFn) -> Document:
    thought: Content = ["Begin.\n"]
    for _ in range(draw(st.integers(1, 2))):
        thought += [draw(blocks()), "Go on.\n"]
    return Document(thought=thought, answer=["Answer: 4"])


@settings(deadline=None)
@given(documents())
def test_renumbering_numbers_everything_once(document: Document) -> None:
    numbered = renumber(document)
    assert all(wanted == found for wanted, found in _walk_labels(numbered.thought or []))
    assert renumber(numbered) == numbered
    options = replace(CURATION, independence=False)
    assert check_document(serialise(numbered), options=options) == []


def test_renumbering_repairs_what_an_llm_numbered() -> None:
    wrong = whole().replace("<Path>\n2:", "<Path>\n7:").replace("<Outline>\n1:", "<Outline>\n4:")
    assert set(codes(check_document(wrong))) == {"wrong-number", "nested-number"} - {
        "nested-number"
    }
    assert serialise(renumber(parse_text(wrong))) == whole()


# --- normal form ------------------------------------------------------------------------------


@given(st.text(alphabet="ab &lt;gt;\n\t“’–", max_size=60), st.sampled_from(["", " "]))
def test_every_normal_character_says_where_it_stands(text: str, space: str) -> None:
    found = normal(text, space=space)
    assert len(found.text) == len(found.offsets)
    assert list(found.offsets) == sorted(set(found.offsets))
    for char, at in zip(found.text, found.offsets, strict=True):
        assert char.isspace() == text[at].isspace()
        if text[at].isalpha():
            assert char == text[at]


def test_what_is_kept_is_the_flattened_text(traces: Callable[[str], Rows]) -> None:
    for row in traces("wellformed"):
        text = row["output"]
        kept = normal(text, kept_spans(locate(text), "</Think>"), space="").text
        flat = flatten_text(text).replace("<Think>", "").replace("</Think>", "")
        assert kept == normal(flat, space="").text


# --- content ----------------------------------------------------------------------------------


def test_a_lost_tail_is_found_where_the_distance_is_small() -> None:
    """Defect 15 of the published pipeline: at a distance of 0.19 nothing was noticed."""
    source = flatten_text(TEXT)
    end = locate(TEXT).thought[1]
    cut = TEXT.rindex("For the check at mark 15", 0, end)
    text = TEXT[:cut] + "\n</Think>" + TEXT[locate(TEXT).answer[0] :]
    findings = check_content(locate(text), source, CURATION)
    assert codes(findings) == ["lost-content"]
    (finding,) = findings
    assert finding.span_in == "source" and finding.span is not None
    start, stop = finding.span
    lost = source.index("For the check at mark 15")
    assert abs(start - lost) < 60 and abs(stop - source.index("</Think>")) < 60


def test_strict_coverage_points_into_the_source() -> None:
    source = flatten_text(TEXT)
    said = "For the check at mark 3 we note"
    text = TEXT.replace(said, "For the check at mark 3 we see")
    options = replace(CURATION, strict_coverage=True)
    (finding,) = check_document(text, source=source, options=options)
    assert finding.code == "changed-sentence" and finding.span_in == "source" and finding.span
    assert source[slice(*finding.span)].startswith(said)


def test_white_space_and_escapes_are_no_distance() -> None:
    source = flatten_text(whole()).replace("Two sums.", "Two sums, a &lt; b.\n\n\n")
    text = whole().replace("Two sums.", "Two  sums, a < b.")
    assert check_document(text, source=source) == []


def test_a_source_without_an_answer_part_is_held_to_the_thought() -> None:
    source = flatten_text(TEXT).split("</Think>")[0].replace("<Think>\n", "")
    assert (
        check_document(TEXT, source=source, options=replace(CURATION, strict_coverage=True)) == []
    )


def test_long_texts_are_compared_in_no_time() -> None:
    text = "".join(f"Line {n} says {n * n % 977} and {n % 13}.\n" for n in range(1600))
    other = text.replace("says", "gives")
    located = locate(f"<Think>\n{other}\n</Think>\n\n")
    started = time.process_time()
    check_content(located, text, CURATION)
    assert len(text) > 35_000 and time.process_time() - started < 3


# --- answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r"So \boxed{5}. Then \boxed{\frac{1}{2}} it is.", r"\frac{1}{2}"),
        ("**[Final Answer]**\n\n\\boxed{204}", "204"),
        ("**Final Answer**\n12\n\nNo, wait.\n\n**Final Answer**\n13\n", "13"),
        ("\\boxed{5}\n\n**Final Answer**\n7", "7"),
        ("**Final Answer**\n\\boxed{7}\n\n**[Final Answer]**", "7"),
        ("Answer: 42", "42"),
        ("Answer: 3.5.", "3.5"),
        ("The answer is \\(x = 3\\).", "x = 3"),
        ("### Final Answer: **C**", "C"),
        ("Answer: To solve this we first consider all the pairs, and then count " + "x" * 80, None),
        ("**Final Answer**", None),
        (r"\boxed{}", None),
        (r"\boxed{12", None),
        ("Nothing here.", None),
    ],
)
def test_the_last_answer_counts(text: str, wanted: str | None) -> None:
    found = final_answer(text)
    assert (found.text if found else None) == wanted
    if found is not None:
        assert found.text.split("{")[-1].rstrip("}") in text[slice(*found.span)]


def test_a_changed_answer_is_found_and_pointed_at() -> None:
    text = whole().replace("Answer: 42", "Answer: 43")
    (finding,) = check_document(text, answer="42")
    assert finding.code == "answer-changed" and finding.span is not None
    assert text[slice(*finding.span)] == "43"


def test_the_reference_may_be_bare_or_in_a_text_or_missing() -> None:
    solution = "Long talk. " * 40
    assert check_document(whole(), answer="42.0") == []
    assert check_document(whole(), answer=solution + r"\boxed{42}") == []
    assert codes(check_document(whole(), answer=solution + r"\boxed{41}")) == ["answer-changed"]
    assert codes(check_document(whole(), answer=solution)) == ["answer-unchecked"]
    kept = whole().replace("Answer: 42", solution.strip())
    assert check_document(kept, answer=solution) == []
    assert check_document(whole(), answer=None) == []


@pytest.mark.parametrize("wanted", ["1" * 300, "(" * 5000, r"\frac{1}{2} + " * 20 + "1"])
def test_a_long_reference_is_compared_all_the_same(wanted: str) -> None:
    (finding,) = check_document(whole(), answer=wanted)
    assert finding.code in ("answer-changed", "answer-undecided")
    assert len(finding.message) < 500
    if wanted[0] == "1":
        kept = whole().replace("Answer: 42", rf"\boxed{{{wanted}}}")
        assert check_document(kept, answer=wanted) == []
        longer = whole().replace("Answer: 42", rf"\boxed{{{wanted}1}}")
        assert codes(check_document(longer, answer=wanted)) == ["answer-changed"]


def test_what_a_conclusion_calls_an_answer_is_not_the_final_one() -> None:
    text = whole(BLOCK.replace("42 and 17.", "The answer is 17.")).replace(
        "Two sums.", "The answer is 42."
    )
    source = "The answer is 42.\nAdding 12 and 30 gives 42.\nSubtracting 12 from 29 gives 17.\n"
    assert check_document(text, source=source + "So it is 42.") == []


def test_an_answer_lost_to_its_marker_is_missing() -> None:
    text = whole().replace("Answer: 42", "**Final Answer**").replace("So it is 42.", "So.")
    assert codes(check_document(text, answer="42")) == ["answer-missing"]


@pytest.fixture(scope="module")
def equivalence():
    one = Equivalence()
    yield one
    one.close()


def test_answers_are_compared_as_mathematics_from_any_thread(equivalence: Equivalence) -> None:
    pairs = {
        ("073", "73"): Verdict.SAME,
        (r"\frac{1}{2}", "0.5"): Verdict.SAME,
        ("C", "(C)"): Verdict.SAME,
        (r"\text{Evelyn}", "Evelyn"): Verdict.SAME,
        ("C", "D"): Verdict.DIFFERENT,
        ("204", "2.04"): Verdict.DIFFERENT,
        ("hello", "world"): Verdict.DIFFERENT,
    }
    found: dict[tuple[str, str], Verdict] = {}

    def ask(pair: tuple[str, str]) -> None:
        found[pair] = equivalence(*pair, timeout=60)

    threads = [threading.Thread(target=ask, args=(pair,)) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == pairs


def test_an_answer_that_takes_too_long_is_left_undecided(equivalence: Equivalence) -> None:
    assert equivalence("10^{10^{10^{10}}}", "3", timeout=1) is Verdict.UNDECIDED
    assert equivalence("1/4", "0.25", timeout=60) is Verdict.SAME


def test_a_worker_that_does_not_start_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('no such thing here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EquivalenceError, match=r"no such thing here.*pip install"):
        Equivalence()("1/3", "0.1")


# --- independence -----------------------------------------------------------------------------


def path_codes(first: str, second: str, trunk: str = "Two sums.") -> list[str]:
    text = whole().replace("Two sums.", trunk)
    text = text.replace("Adding 12 and 30 gives 42.", first)
    text = text.replace("Subtracting 12 from 29 gives 17.", second)
    return codes(check_independence(locate(text), CURATION))


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ("It is 42.", "Alternatively, it is 17.", ["transitional-opening"]),
        ("First, we add.", "It is 17.", ["transitional-opening"]),
        ("First derivatives vanish.", "Second terms stay.", []),
        ("Next to the wall it is 42.", "Now and then it is 17.", []),
        ("It is 42.", "As in path 1, it is 17.", ["back-reference"]),
        ("It is 42.", "Unlike the previous case, it is 17.", ["back-reference"]),
        ("The other option is 42.", "It is 17.", []),  # nothing but the trunk stands before
        ("It is 42.", "Path 2 is this one.", []),
        ("It is 42.", "Step 1: subtract. From step 1 it is 17.", []),
        ("It is 42.", "From step 1 it is 17.", ["back-reference"]),
        ("Let k be 42.", "Twice k is 84.", ["sibling-symbol"]),
        ("Let k be 42.", "For k = 3 it is 17.", []),
        ("Let k be 42.", "The integer k is odd.", []),
        ("It is 42.", " It  is 42.", ["identical-paths"]),
    ],
)
def test_what_leans_on_a_sibling(first: str, second: str, wanted: list[str]) -> None:
    assert path_codes(first, second) == wanted


def test_a_symbol_of_the_trunk_is_everybodys() -> None:
    assert path_codes("Let k be 42.", "Twice k is 84.", trunk="Let k be a number.") == []


def test_real_paths_are_seldom_suspected(traces: Callable[[str], Rows]) -> None:
    paths = suspected = 0
    for row in traces("wellformed"):
        located = locate(row["output"])
        paths += sum(len(block.paths) for block in located.walk())
        suspected += len(check_independence(located, CURATION))
    assert paths == 699 and 10 <= suspected <= 20


def test_a_judge_sees_trunk_path_and_siblings() -> None:
    seen = []

    def judge(*, trunk: str, path: str, siblings: list[str]) -> str | None:
        seen.append((trunk, path.strip(), [one.strip() for one in siblings]))
        return "needs the sum" if "Subtracting" in path else None

    (finding,) = judge_independence(locate(whole()), judge)
    assert finding.code == "judged-dependent" and finding.message == "needs the sum"
    assert seen[0][1:] == (
        "Adding 12 and 30 gives 42.",
        ["Subtracting 12 from 29 gives 17."],
    )
    assert seen[0][0].endswith("</Goal>\n") and "Two sums." in seen[0][0]


# --- rewritten blocks -------------------------------------------------------------------------


def test_a_block_may_be_reworded() -> None:
    new = BLOCK.replace("Adding 12 and 30 gives 42.", "The sum of 12 and 30 is 42 by adding.")
    assert check_block(BLOCK, new) == []
    assert check_block(f"{BLOCK}\n", f"\n{new}\n") == []


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("\n</Path>\n<Conclusion>", "\n<Conclusion>", "unclosed-path"),
        ("Adding 12 and 30 gives 42.", "Fine.", "lost-content"),
        ("1: Adding 12 and 30 gives 42.", "1: Subtracting 12 from 29 gives 17 here.",
         "swapped-paths"),
        ("1: Adding 12", "1: First, we add 12", "transitional-opening"),
        ("2: Subtracting 12", "2: Unlike path 1, subtracting 12", "back-reference"),
    ],
)  # fmt: skip
def test_what_a_rewriting_does_wrong(old: str, new: str, wanted: str) -> None:
    text = BLOCK.replace(old, new)
    assert text != BLOCK
    findings = check_block(BLOCK, text)
    assert wanted in codes(findings)
    for finding in findings:
        assert finding.span is not None and 0 <= finding.span[0] <= finding.span[1] <= len(text)


def test_a_dropped_inner_block_is_found() -> None:
    located = locate(TEXT)
    outer = next(block for block in located.blocks if any(path.blocks for path in block.paths))
    old = TEXT[slice(*outer.span)]
    new = serialise(Document(thought=None, answer=[parse_text(TEXT).blocks[0]]))
    assert check_block(old, new) == []
    inner = next(path for path in outer.paths if path.blocks).blocks[0]
    dropped = TEXT[outer.span[0] : inner.span[0]] + TEXT[inner.span[1] + 1 : outer.span[1]]
    assert "changed-structure" in codes(check_block(old, dropped))


# --- benefit ----------------------------------------------------------------------------------


def pieces(text: str) -> int:
    return len(lex(text).pieces)


def critical_path(text: str) -> int:
    lexed = lex(text)
    return parallelism(parse(lexed.ids, lexed.dialect)).critical_path_tokens


def test_a_block_that_costs_more_than_it_saves_is_undone() -> None:
    document, findings = flatten_costly_blocks(parse_text(whole()), pieces)
    assert codes(findings) == ["costly-block"]
    assert serialise(document) == flatten_text(whole())


def test_a_block_that_saves_stays_and_its_inner_one_goes() -> None:
    document, findings = flatten_costly_blocks(parse_text(TEXT), pieces)
    kept = [len(block.paths) for block, _ in document.walk()]
    assert kept == [3] and len(findings) == 2
    text = serialise(document)
    assert check_document(text, source=flatten_text(TEXT)) == []
    assert critical_path(text) < critical_path(TEXT)


def test_blocks_in_an_undone_one_move_up_and_are_renumbered() -> None:
    long = " ".join(f"step {n} is done" for n in range(400))
    inner = Block(
        [Outline("1.1", " P."), Outline("1.2", " Q.")],
        [Path("1.1", [f" {long}\n"]), Path("1.2", [f" {long}\n"])],
        Conclusion(["Both."]),
    )
    outer = Block(
        [Outline("1", " A."), Outline("2", " B.")],
        [Path("1", [" Begin.\n", inner, "Then.\n"]), Path("2", [" Short.\n"])],
        Conclusion(["All."]),
    )
    document, findings = flatten_costly_blocks(Document(thought=["So.\n", outer]), pieces)
    assert len(findings) == 1
    (left,) = document.blocks
    assert [path.label for path in left.paths] == ["1", "2"]
    assert (
        flatten_text(serialise(document)).split()
        == flatten_text(serialise(Document(thought=["So.\n", outer]))).split()
    )


@settings(deadline=None)
@given(documents())
def test_undoing_never_lengthens_the_critical_path(document: Document) -> None:
    numbered = renumber(document)
    flat, findings = flatten_costly_blocks(numbered, pieces)
    before, after = serialise(numbered), serialise(flat)
    assert critical_path(after) <= critical_path(before)
    assert flatten_text(after).split() == flatten_text(before).split()
    options = replace(CURATION, independence=False, require_block=False)
    assert check_document(after, options=options) == []
    assert sum(1 for _ in numbered.walk()) - len(findings) == sum(1 for _ in flat.walk())


def test_a_margin_undoes_more() -> None:
    many = flatten_costly_blocks(parse_text(TEXT), pieces, margin=10_000)[1]
    assert len(many) == 3
    assert flatten_costly_blocks(parse_text(TEXT), pieces, margin=-10_000)[1] == []


# --- docs -------------------------------------------------------------------------------------


def test_the_docs_name_every_code(repository: pathlib.Path) -> None:
    docs = set(re.findall(r"`([a-z-]+)`", (repository / "docs" / "gates.md").read_text("utf-8")))
    sources = [*(repository / "data_pipeline" / "gates").rglob("*.py")]
    sources.append(repository / "data_pipeline" / "outline.py")
    code = r"(?:Finding|_finding|note)\(\s*\"([a-z]+(?:-[a-z]+)+)\""
    used = {found for file in sources for found in re.findall(code, file.read_text("utf-8"))}
    assert len(used) > 40
    assert used <= docs
