"""The stages as pure functions, on hand-written items: what is asked, taken, mended, refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sglang_multiverse.data_pipeline.gates import CURATION, check_document
from sglang_multiverse.data_pipeline.recipe import Recipe
from sglang_multiverse.data_pipeline.record import Passage, Record, Rejection, item_id
from sglang_multiverse.data_pipeline.stages import rewriting
from sglang_multiverse.data_pipeline.stages.framing import read_frames
from sglang_multiverse.data_pipeline.stages.payload import payload
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette, Replied, load, load_all
from sglang_multiverse.data_pipeline.teacher.prompt import FOLDER, PromptError, Prompts, read
from sglang_multiverse.flatten import flatten_text
from sglang_multiverse.text import parse_text

from .driving import CASSETTES, Driven, drive

ITEMS = {cassette.name: cassette for cassette in load_all(CASSETTES)}
RIGHT = Recipe("teacher", right_answers=True)

ONCE = ["outline-steps/1", "outline-groups/1", "fill/1", "frame/1", "rewrite B1/1"]


def test_there_are_at_least_twelve_items() -> None:
    assert len(ITEMS) >= 12


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("clean", ONCE),
        ("fenced", ONCE),
        ("signs-in-math", [*ONCE, "doubts B1/1"]),
        ("wrong-numbers", ONCE),
        ("dropped-path", [*ONCE, "rewrite B1/2"]),
        ("lost-sentence", [*ONCE[:3], "fill/2", *ONCE[3:]]),
        ("cut-reply", [*ONCE[:3], "fill/2", *ONCE[3:]]),
        ("too-deep", [*ONCE[:2], "outline-groups/2", *ONCE[2:]]),
        ("repaired", [*ONCE[:4], "frame/2", "rewrite B1/1", "rewrite B1/2"]),
        ("two-blocks", [*ONCE, "rewrite B2/1"]),
    ],
)
def test_what_is_accepted_and_what_it_took(name: str, asked: list[str]) -> None:
    driven = drive(ITEMS[name])
    assert isinstance(driven.result, Record), driven.result
    assert driven.asked == asked
    record = driven.result
    assert check_document(record.text, source=record.source, answer=record.attempt) == []
    assert parse_text(record.text).canonical


@pytest.mark.parametrize(
    ("name", "stage", "code", "calls"),
    [
        ("no-parallelism", "outline", "no-group", 2),
        ("refused", "outline", "refusal", 3),
        ("never-repaired", "rewrite", "lost-content", 7),
        ("changed-answer", "rewrite", "new-number", 7),
    ],
)
def test_what_is_rejected_and_why(name: str, stage: str, code: str, calls: int) -> None:
    driven = drive(ITEMS[name])
    assert isinstance(driven.result, Rejection)
    assert (driven.result.stage, driven.result.code) == (stage, code)
    assert len(driven.calls) == calls


def repair_request(name: str, task: str) -> str:
    driven = drive(ITEMS[name])
    call = driven.calls[driven.asked.index(task)]
    assert [message.role for message in call.messages[-3:]] == ["user", "assistant", "user"]
    return call.messages[-1].content


@pytest.mark.parametrize(
    ("name", "task", "wanted"),
    [
        ("dropped-path", "rewrite B1/2", ["path-count"]),
        ("lost-sentence", "fill/2", ["missing-sentence: sentence 4", "duplicated-sentence"]),
        ("too-deep", "outline-groups/2", ["too-deep"]),
        ("repaired", "frame/2", ["path-count", "B1"]),
        ("repaired", "rewrite B1/2", ["transitional-opening", "Alternatively"]),
        ("changed-answer", "rewrite B1/3", ["new-number", "81"]),
        ("never-repaired", "rewrite B1/3", ["lost-content", "path 1"]),
    ],
)
def test_repair_is_told_code_and_place(name: str, task: str, wanted: list[str]) -> None:
    request = repair_request(name, task)
    assert all(part in request for part in wanted), request


def test_a_failed_reply_is_asked_for_afresh_and_not_quoted() -> None:
    driven = drive(ITEMS["cut-reply"])
    first, second = [call for call in driven.calls if call.stage == "fill"]
    assert len(first.messages) == len(second.messages)
    assert first.key != second.key


def test_numbers_are_ours() -> None:
    record = drive(ITEMS["wrong-numbers"]).result
    assert isinstance(record, Record)
    (block,) = parse_text(record.text).blocks
    assert [outline.label for outline in block.outlines] == ["1", "2"]
    assert [path.label for path in block.paths] == ["1", "2"]
    nested = drive(ITEMS["too-deep"]).result
    assert isinstance(nested, Record)
    labels = [path.label for block, _ in parse_text(nested.text).walk() for path in block.paths]
    assert labels == ["1", "2", "1.1", "1.2"]


def test_signs_of_mathematics_survive() -> None:
    record = drive(ITEMS["signs-in-math"]).result
    assert isinstance(record, Record)
    for kept in ("n^2 < 3n + 4", "1 < 7 & 4 < 10", "a <b> and c>", "&= (n - 4)(n + 1) \\\\ &< 0"):
        assert kept in record.text
    assert "&lt;" not in record.text


def test_outside_the_blocks_the_text_is_the_source_to_the_letter() -> None:
    for name in ("clean", "fenced", "two-blocks", "signs-in-math"):
        cassette = ITEMS[name]
        record = drive(cassette).result
        assert isinstance(record, Record)
        thought = parse_text(record.text).thought or []
        for part in thought:
            if isinstance(part, str):
                assert part.strip() in cassette.chain, name


def test_the_draft_flattens_to_the_source() -> None:
    """Up to white space: what the LLM adds is in goals and conclusions alone."""
    seen = 0
    for cassette in ITEMS.values():
        call = next((c for c in drive(cassette).calls if c.stage == "rewrite"), None)
        if call is not None:
            seen += 1
            block = call.messages[1].content.split("The block:\n\n")[1].split("\n\nRewrite")[0]
            flat = "".join(flatten_text(block).split())
            assert flat in "".join(cassette.chain.split()), cassette.name
    assert seen >= 10


def test_attempts_are_bounded_by_the_recipe() -> None:
    driven = drive(ITEMS["never-repaired"], Recipe("teacher", attempts=2))
    assert isinstance(driven.result, Rejection)
    assert driven.asked[-1] == "rewrite B1/2"


def test_a_failed_rewrite_can_be_kept_as_drafted() -> None:
    driven = drive(ITEMS["never-repaired"], Recipe("teacher", on_failed_rewrite="keep"))
    assert isinstance(driven.result, Record), driven.result
    (note,) = driven.result.notes
    assert note.code == "kept-as-drafted" and "lost-content" in note.message
    assert "every fifth number gives one, that is 100 / 5 = 20" in driven.result.text


def spoilt(name: str) -> Cassette:
    """``two-blocks``, the second of which cannot be rewritten."""
    cassette = ITEMS[name]
    broken = (Replied("nothing of the sort"),) * 3
    return replace(cassette, replies={**cassette.replies, "rewrite B2": broken})


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_a_failed_block_is_flattened_to_the_sources_sentences_and_the_item_kept() -> None:
    cassette = spoilt("two-blocks")
    driven = drive(cassette)
    assert isinstance(driven.result, Record), driven.result
    (block,) = parse_text(driven.result.text).blocks
    whole = drive(ITEMS["two-blocks"]).result
    assert isinstance(whole, Record)
    kept, lost = parse_text(whole.text).blocks
    assert block == kept
    (note,) = driven.result.notes
    assert note.code == "flattened: no-block"
    assert driven.result.proposed == 2
    assert sum(isinstance(one, Passage) for one in driven.result.passages) == 1
    # Not a word of the second block's frame is left, and every sentence of its paths is.
    for outline in lost.outlines:
        assert outline.text.strip() not in driven.result.text
    drafted = drive(cassette, Recipe("teacher", on_failed_rewrite="keep")).result
    assert isinstance(drafted, Record)
    sentences = squeezed(
        "".join(str(path.content[0]) for path in parse_text(drafted.text).blocks[1].paths)
    )
    assert len(sentences) > 100
    assert sentences in squeezed(cassette.chain)
    assert sentences in squeezed(driven.result.text)
    rejected = drive(cassette, Recipe("teacher", on_failed_rewrite="reject")).result
    assert isinstance(rejected, Rejection)


def test_a_dependent_block_is_flattened() -> None:
    two = ITEMS["two-blocks"]
    replies = {
        **two.replies,
        "doubts B1": (Replied("1: ok"),),
        "doubts B2": (Replied("1: ok"),),
        "judge B1": (Replied("1: uses the count of path 2\n2: ok"),),
        "judge B2": (Replied("1: ok\n2: ok"),),
    }
    driven = drive(replace(two, replies=replies), Recipe("teacher", judge="every"))
    assert isinstance(driven.result, Record), driven.result
    assert [note.code for note in driven.result.notes] == ["flattened: judged-dependent"]
    assert len(parse_text(driven.result.text).blocks) == 1


def test_chains_without_groups_can_be_kept() -> None:
    gates = replace(CURATION, require_block=False)
    driven = drive(ITEMS["no-parallelism"], Recipe("teacher", gates=gates))
    # The cassette knows no further replies: the fill is asked for, not refused.
    assert driven.asked[-1] == "fill/1"


def test_the_benefit_gate_undoes_blocks_that_do_not_pay() -> None:
    driven = drive(ITEMS["clean"], Recipe("teacher", benefit=0))
    assert isinstance(driven.result, Rejection)
    assert driven.result.code == "no-benefit"
    gates = replace(CURATION, require_block=False)
    driven = drive(ITEMS["clean"], Recipe("teacher", benefit=0, gates=gates))
    assert isinstance(driven.result, Record)
    assert parse_text(driven.result.text).blocks == []
    assert [note.code for note in driven.result.notes] == ["costly-block"]
    assert "Both balls are to be red" in driven.result.text


@pytest.mark.parametrize(
    ("chain", "code"),
    [("", "empty-source"), ("Well.\n<Path>\nA tag stood there.", "tag-in-source")],
)
def test_what_cannot_be_curated_costs_nothing(chain: str, code: str) -> None:
    driven = drive(Cassette("bad", "Q?", chain))
    assert isinstance(driven.result, Rejection)
    assert driven.result.code == code
    assert driven.calls == []


def test_reading_frames() -> None:
    frames = read_frames(
        "**B1**\nGoal 1: One\ngoes on.\n2. Two\n\nConclusion: Both\nhold: 3: yes.\n\n"
        "B2:\n1: x\n2: y\nconclusion: z"
    )
    assert frames["B1"].goals == {1: "One goes on.", 2: "Two"}
    assert frames["B1"].conclusion == ["Both", "hold: 3: yes."]
    assert frames["B2"].conclusion == ["z"]


@pytest.mark.parametrize(
    "fenced",
    ["```\na < b\n```", "```markdown\na < b\n```\n\n", "~~~\na < b\n~~~", "a < b", " a < b\n"],
)
def test_fences_around_all_of_it_go(fenced: str) -> None:
    assert payload(fenced) == "a < b"


def test_fences_inside_stay() -> None:
    text = "S1: code\n```\nx\n```\nS2: more"
    assert payload(text) == text
    assert payload(f"````\n{text}\n````") == text


def test_the_same_replies_make_the_same_record() -> None:
    one, two = drive(ITEMS["two-blocks"]), drive(ITEMS["two-blocks"])
    assert one.result == two.result
    assert [call.key for call in one.calls] == [call.key for call in two.calls]


def test_a_changed_prompt_changes_only_what_depends_on_it() -> None:
    prompts = Prompts.load()
    changed = replace(prompts["frame"], text=prompts["frame"].text + "\nBe brief.")
    other = Prompts({**prompts.by_name, "frame": changed})
    one = drive(ITEMS["clean"])
    two = drive(ITEMS["clean"], Recipe("teacher", prompts=other))
    differing = [a.stage for a, b in zip(one.calls, two.calls, strict=True) if a.key != b.key]
    assert differing == ["frame"], "the reply was the same, so the rewrite is, too"
    assert Recipe("teacher").fingerprint != Recipe("teacher", prompts=other).fingerprint


def test_every_prompt_is_versioned_and_none_holds_a_task_line() -> None:
    for file in FOLDER.glob("*.md"):
        prompt = read(file)
        assert prompt.version >= 1
        assert "Task:" not in prompt.text


def test_own_prompts_replace_those_of_the_package(tmp_path: Path) -> None:
    own = tmp_path / "prompts"
    own.mkdir()
    (own / "repair.md").write_text("---\nname: repair\nversion: 7\n---\nMend:\n{{findings}}\n")
    prompts = Prompts.load(own)
    assert (prompts["repair"].version, prompts["repair"].text) == (7, "Mend:\n{{findings}}")
    (own / "rewirte.md").write_text("---\nname: rewirte\nversion: 1\n---\nx")
    with pytest.raises(PromptError, match="replaces no prompt"):
        Prompts.load(own)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "---\nname: repair\nversion: 2\n---\nHi {{nothing}}",
            r"\{\{nothing}}, .*\{\{findings}}: ",
        ),
        ("---\nname: repair\nversion: 2\n---\nHi", r"no slot, its stage fills \{\{findings}}"),
        ("---\nname: [\n---\nx", "front matter of .*repair.md is no YAML: line "),
        ("---\n- a\n---\nx", "lacks `name` or `version`"),
        ("---\nname: repair\nversion: two\n---\n{{findings}}", "'two'; it must be a whole number"),
        ("---\nname: repair\nversion:\n---\n{{findings}}", "None; it must be a whole number"),
        ("---\nname: repair\nversion: 2\n---\n\n", "holds no text"),
        (b"---\nname: repair\nversion: 2\n---\n\xff{{findings}}", "repair.md is not UTF-8"),
    ],
)
def test_an_own_prompt_is_checked_whole(tmp_path: Path, content: str | bytes, message: str) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "repair.md").write_bytes(raw)
    with pytest.raises(PromptError, match=message):
        Prompts.load(tmp_path)


def test_a_slot_too_many_or_too_few_is_named(tmp_path: object) -> None:
    prompt = Prompts.load()["repair"]
    with pytest.raises(PromptError, match="findings"):
        prompt.fill()
    assert "{{x}} $1 \\1" in prompt.fill(findings="{{x}} $1 \\1"), "values are not searched"


def test_ids_are_hashes_of_the_question() -> None:
    assert item_id("a  b\n") == item_id("a b") != item_id("a c")
    clean = ITEMS["clean"]
    assert load(CASSETTES / "clean.yaml").id == item_id(clean.question, clean.chain)
    assert item_id("a", "b") != item_id("a", "c") != item_id("a b")


def test_a_dead_end_in_the_source_stays_in_sequence() -> None:
    """Text of a step between two groups is trunk."""
    record = drive(ITEMS["two-blocks"]).result
    assert isinstance(record, Record)
    thought = parse_text(record.text).thought or []
    kinds = ["text" if isinstance(part, str) else "block" for part in thought]
    assert kinds == ["text", "block", "text", "block", "text"]


def test_text_around_the_block_is_not_taken() -> None:
    clean = ITEMS["clean"]
    (reply,) = clean.replies["rewrite B1"]
    chatty = Replied(f"The colours of the balls matter below.\n{reply.text}")
    replies = {**clean.replies, "rewrite B1": (chatty, reply)}
    driven = drive(replace(clean, replies=replies))
    assert isinstance(driven.result, Record)
    assert driven.asked[-1] == "rewrite B1/2"
    assert "text-outside-block" in driven.calls[-1].messages[-1].content


def judged(verdict: str, **recipe: object) -> Driven:
    clean = ITEMS["clean"]
    replies = {
        **clean.replies,
        "doubts B1": (Replied("1: ok"),),
        "judge B1": (Replied("no verdict"), Replied(verdict)),
    }
    return drive(replace(clean, replies=replies), Recipe("teacher", judge="every", **recipe))  # type: ignore[arg-type]


def test_a_judge_may_let_pass_or_fault() -> None:
    passed = judged("1: ok\n2: OK.")
    assert isinstance(passed.result, Record)
    assert passed.asked[-3:] == ["doubts B1/1", "judge B1/1", "judge B1/2"]
    faulted = judged("1: ok\n2: uses the count of path 1")
    assert isinstance(faulted.result, Rejection)
    assert (faulted.result.stage, faulted.result.code) == ("judge", "judged-dependent")
    assert "path 2 of block 1 uses the count of path 1" in faulted.result.message
    noted = judged("1: ok\n2: uses the count of path 1", on_failed_rewrite="keep")
    assert isinstance(noted.result, Record)
    assert [note.code for note in noted.result.notes] == ["judged-dependent"]


@pytest.mark.parametrize(
    ("verdict", "fine"),
    [
        ("`ok`", True),
        ("**ok**", True),
        ('"ok"', True),
        ("“OK.”", True),
        ("OK (independent)", True),
        ("**ok** (it counts anew).", True),
        ("ok, but it takes 15 from path 1", False),
        ("ok (but it takes 15 from path 1)", False),
        ("okra", False),
        ("no", False),
        ("`takes` 15", False),
    ],
)
def test_a_verdict_may_be_dressed(verdict: str, fine: bool) -> None:
    assert isinstance(judged(f"1: {verdict}\n2: ok").result, Record) is fine


@pytest.mark.parametrize(
    "verdicts",
    [
        "1: takes the value of path 2\n2: ok\n1: ok",
        "1: ok\n2: ok\n2: ok",
        "1: ok\n2: ok\n3: ok",
        f"{'9' * 5000}: ok",
        f"1: ok\n2: ok\n{'9' * 5000}: ok",
    ],
)
def test_verdicts_that_are_not_one_for_each_are_asked_again(verdicts: str) -> None:
    driven = judged(verdicts)
    assert driven.asked[-1] == "judge B1/3"
    assert "unreadable-verdict" in driven.calls[-1].messages[-1].content


LONG = "9" * 5000


@pytest.mark.parametrize(
    ("task", "text", "code"),
    [
        ("outline-steps", f"S{LONG}: a", "no-steps"),
        ("outline-steps", "\n".join(f"S1{'.1' * n}: x" for n in range(1500)), "unlabelled-text"),
        ("outline-groups", "<parallel>\n<branch>\n" * 3000, "too-deep"),
        ("outline-groups", "<parallel>\n" * 3000, "too-deep"),
        ("fill", f"S{LONG}: 1", "added-step"),
        ("fill", f"S1: {LONG}", "unknown-sentence"),
        ("frame", f"B1\n{LONG}: x\nConclusion: y", "path-count"),
    ],
)
def test_numbers_and_nesting_without_end_are_findings(task: str, text: str, code: str) -> None:
    clean = ITEMS["clean"]
    driven = drive(replace(clean, replies={**clean.replies, task: (Replied(text),) * 3}))
    assert isinstance(driven.result, Rejection)
    assert driven.asked[-1] == f"{task}/3"
    assert code in driven.calls[-1].messages[-1].content


def test_the_judge_sees_what_stands_before_the_block_and_not_what_follows() -> None:
    request = judged("1: ok\n2: ok").calls[-1].messages[1].content
    before = request.split("<before>")[1].split("</before>")[0]
    assert "There are $\\binom{8}{2} = 28$ ways" in before
    assert "add up" not in request


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        ("\\frac{3}{28}", True),
        ("0.107142857142857142857", True),
        ("The proof is left to the reader; it is long and names no answer at all. " * 3, True),
        ("17", False),
    ],
)
def test_a_chain_that_is_wrong_costs_no_call(answer: str, asked: bool) -> None:
    clean = replace(ITEMS["clean"], answer=answer)
    driven = drive(replace(clean, attempt="It is $\\boxed{\\frac{3}{28}}$."), RIGHT)
    assert bool(driven.asked) == asked
    if asked and len(answer) > 100:
        assert isinstance(driven.result, Record)
        assert "answer-unchecked" in [note.code for note in driven.result.notes]
    if not asked:
        assert isinstance(driven.result, Rejection)
        assert (driven.result.stage, driven.result.code) == ("source", "wrong-answer")


def doubted(*verdicts: str, sentence: str = "", conclusion: str = "", **recipe: object) -> Driven:
    """The clean item with another sentence or conclusion in its rewritten block."""
    clean = ITEMS["clean"]
    text = clean.replies["rewrite B1"][0].text or ""
    text = text.replace("Both balls are to be blue.", sentence or "Both balls are to be blue.")
    said = "Two red balls have the chance 3/28, two blue ones 10/28."
    assert said in text
    reply = Replied(text.replace(said, conclusion or said))
    replies = {
        **clean.replies,
        "rewrite B1": (reply,) * 3,
        "doubts B1": tuple(map(Replied, verdicts)),
    }
    return drive(replace(clean, replies=replies), Recipe("teacher", **recipe))  # type: ignore[arg-type]


TOWNS = ("Basel", "Bonn", "Genoa")
INVENTED = "Both balls are to be blue. The weather was fine when Euler drew his urn."


def test_a_judge_settles_what_words_leave_doubtful() -> None:
    passed = doubted("no verdict", "1: ok\n2: ok", sentence=INVENTED)
    assert isinstance(passed.result, Record), passed.result
    assert passed.asked[-2:] == ["doubts B1/1", "doubts B1/2"]
    request = passed.calls[-1].messages[1].content
    assert "1: the source does not say this" in request and "Euler" in request
    assert "2: the conclusion: do the paths come to it?" in request  # asked along with it
    faulted = doubted("1: no weather was spoken of\n2: ok", sentence=INVENTED)
    assert isinstance(faulted.result, Rejection)
    assert (faulted.result.stage, faulted.result.code) == ("rewrite", "judged-unfaithful")
    assert "no weather was spoken of" in faulted.result.message


def test_a_judge_is_told_of_every_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "MOST_DOUBTS", len(TOWNS))  # and one more of the conclusion
    many = " ".join(["Both balls are to be blue.", *(f"Rain falls on {town}." for town in TOWNS)])
    false = "Two red balls have the chance 3/28, two blue ones 12/28."
    driven = doubted(sentence=many, conclusion=false)
    assert driven.asked[-1] == "doubts B1/1"
    listed = driven.calls[-1].messages[1].content.split("doubts these places")[1]
    assert all(f"Rain falls on {town}" in listed for town in TOWNS)
    assert "the conclusion: no path comes to 12" in listed


def test_without_a_judge_a_doubt_is_a_fault() -> None:
    driven = doubted(sentence=INVENTED, judge="never")
    assert isinstance(driven.result, Rejection)
    assert driven.result.code == "new-statement"
    assert driven.asked[-1] == "rewrite B1/3"


def test_a_wrong_number_is_no_doubt() -> None:
    driven = doubted(sentence="Both balls are to be blue, of 17.")
    assert isinstance(driven.result, Rejection)
    assert (driven.result.code, driven.asked[-1]) == ("new-number", "rewrite B1/3")


def test_a_conclusion_that_no_path_comes_to_is_judged() -> None:
    false = "Two red balls have the chance 3/28, two blue ones 12/28."
    driven = doubted("1: two blue ones have 10/28\n2: as before", conclusion=false)
    assert isinstance(driven.result, Rejection)
    assert driven.result.code == "judged-unfaithful"
    assert "the conclusion: no path comes to 12" in driven.result.message
    unjudged = doubted(conclusion=false, judge="never")
    assert isinstance(unjudged.result, Record)


def test_every_conclusion_may_be_judged() -> None:
    driven = doubted("1: they add up to 14/28", judge="every")
    assert isinstance(driven.result, Rejection)
    assert driven.result.code == "judged-unfaithful"
    assert "do the paths come to it?: they add up to 14/28" in driven.result.message
