"""``multiverse analyse prompting``: replies of every kind over HTTP, and the reader of their
numbered tags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.data_pipeline.analyses.numbered import Block, read_numbered
from sglang_multiverse.data_pipeline.analyses.prompting import Verdict, judge
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette, Replied
from sglang_multiverse.lexer import lex
from sglang_multiverse.structure import Trace, parse

from .replay import ReplayServer

GOALS = "<Parallel>\n<Goal 1>\nFind 12 * 3.\n</Goal 1>\n<Goal 2>\nFind 40 + 2.\n</Goal 2>\n"
END = "<Conclusion>\n36 and 42.\n</Conclusion>\n</Parallel>\nThe larger is 42."
LONG = " It takes a while to see this, step after step, digit after digit." * 8
REPLIES = {
    "good": (
        f"{GOALS}<Path 1>\n12 * 3 is 36.{LONG}\n</Path 1>\n<Path 2>\n40 + 2 is 42.{LONG}\n"
        f"</Path 2>\n{END}"
    ),
    "inline": (
        "<parallel> <goal 1>Find 12 * 3.</goal 1> <goal 2>Find 40 + 2.</goal 2>\n"
        "<path 1>It is 36.</path 1> <path 2>It is 42.</path 2>\n"
        "<conclusion>36, 42.</conclusion> </parallel>\n42"
    ),
    "empty-paths": f"{GOALS}<Path 1>\n</Path 1>\n<Path 2>\n…\n</Path 2>\n{END}",
    "restated": (
        f"{GOALS}<Path 1>\nFind 12 * 3\n</Path 1>\n<Path 2>\nFind 40 + 2.\n</Path 2>\n{END}\n"
        "Path 1: 12 * 3 is 36. Path 2: 40 + 2 is 42."
    ),
    "plan": f"{GOALS}</Parallel>\nFirst, 12 * 3 = 36. Then 40 + 2 = 42.",
    "dropped": f"{GOALS}<Path 1>\n12 * 3 is 36.\n</Path 1>\n{END}",
    "unclosed": f"{GOALS}<Path 1>\nIt is 36.\n<Path 2>\nIt is 42.\n{END}",
    "no-parallel": (GOALS + "<Path 1>\nIt is 36.\n</Path 1>\n<Path 2>\nIt is 42.\n</Path 2>\n")
    .replace("<Parallel>\n", "")
    .__add__("<Conclusion>\nBoth.\n</Conclusion>\nThe larger is 42."),
    "talk": "I could use <Parallel> and <Path 1> here, but step by step: 36, 42. So 42.",
    "plain": "12 * 3 = 36 and 40 + 2 = 42, so 42.",
}

#: with_block, announced, forked, well_formed, plan_only
EXPECTED = {
    "good": "11110",
    "inline": "11110",
    "empty-paths": "11001",
    "restated": "11001",
    "plan": "11001",
    "dropped": "11001",
    "unclosed": "11100",
    "no-parallel": "11100",
    "talk": "00000",
    "plain": "00000",
}


def pieces(text: str) -> Trace:
    lexed = lex(text)
    return parse(lexed.ids, lexed.dialect)


def flags(verdict: Verdict) -> str:
    found = (
        verdict.with_block,
        verdict.announced,
        verdict.forked,
        verdict.well_formed,
        verdict.plan_only,
    )
    return "".join("01"[one] for one in found)


@pytest.mark.parametrize("name", REPLIES)
def test_what_a_reply_does(name: str) -> None:
    assert flags(judge(REPLIES[name], pieces)) == EXPECTED[name]


def test_only_paths_that_are_written_make_a_reply_parallel() -> None:
    good = judge(REPLIES["good"], pieces)
    assert good.measures.degree > 1.3 and good.measures.net > 1.1
    assert good.measures.paths == 2 and good.paths == good.goals == 2
    for name in ("empty-paths", "plan", "dropped", "talk", "plain"):
        assert judge(REPLIES[name], pieces).measures.degree == 1.0, name


def test_a_model_that_was_trained_on_the_dialect_is_read_in_it() -> None:
    block = (
        "<Parallel>\n<Goal>\n<Outline>\n1: P\n</Outline>\n<Outline>\n2: Q\n</Outline>\n</Goal>\n"
        "<Path>\n1: It is 36.\n</Path>\n<Path>\n2: It is 42.\n</Path>\n"
        "<Conclusion>\nBoth.\n</Conclusion>\n</Parallel>\n"
    )
    verdict = judge(block, pieces)
    assert verdict.form == "dialect" and flags(verdict) == "11110"


def test_blocks_in_paths_are_read_where_they_stand() -> None:
    inner = REPLIES["inline"].partition("\n42")[0]
    text = (
        GOALS + f"<Path 1>\nTwo parts.\n{inner}\n</Path 1>\n<Path 2>\nIt is 42.\n</Path 2>\n" + END
    )
    outer, nested = read_numbered(text).walk()
    assert outer.well_formed and nested.well_formed and outer.paths[0].blocks == [nested]
    assert judge(text, pieces).measures.depth == 2


@pytest.mark.parametrize(
    ("text", "issue"),
    [
        (REPLIES["unclosed"], "unclosed"),
        (REPLIES["no-parallel"], "no-parallel-tag"),
        (REPLIES["good"].replace("</Path 1>", "</Path 3>"), "closing-number"),
        (REPLIES["good"].replace("<Path 1>", "<Path>"), "no-number"),
        (REPLIES["good"].replace("</Goal 2>", "</Goal 2>\nSome words."), "text-between"),
        (REPLIES["good"].replace("</Path 2>", "</Path 2>\n</Path 2>"), "stray-path"),
        (REPLIES["good"].replace("</Parallel>", ""), "unclosed"),
    ],
)
def test_departures_from_the_form_are_named(text: str, issue: str) -> None:
    (block,) = read_numbered(text).walk()
    assert issue in block.issues and not block.well_formed


@pytest.mark.parametrize("name", REPLIES)
def test_no_cut_and_no_word_of_a_reply_is_lost_or_fatal(name: str) -> None:
    text = REPLIES[name]
    for end in range(0, len(text), 7):
        judge(text[:end], pieces)
    assert "42" in read_numbered(text).canonical()


def test_numbers_that_are_not_the_goals_are_not_well_formed() -> None:
    text = REPLIES["good"].replace("<Path 2>", "<Path 3>").replace("</Path 2>", "</Path 3>")
    (block,) = read_numbered(text).walk()
    assert isinstance(block, Block) and block.forks and not block.well_formed


def analyse(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["analyse", "prompting", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result.stdout if exit_code == 0 else result.output


def test_the_test_over_http(tmp_path: Path) -> None:
    items = [
        Cassette(name, f"Question {name}?", "", replies={"solve": (Replied(text), Replied(text))})
        for name, text in REPLIES.items()
    ]
    cut = Replied("<Parallel>\n<Goal 1>", "length")
    items.append(Cassette("cut", "Question cut?", "", replies={"solve": (cut, cut)}))
    questions = tmp_path / "questions.jsonl"
    rows = [{"id": one.name, "problem": one.question} for one in items]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "replies.jsonl"
    with ReplayServer(items) as server:
        options = [questions, "--base-url", server.url, "--model", "stock"]
        options += ["--store", tmp_path / "s.sqlite", "--samples", 2, "--out", out]
        assert "22 requests, 22 of them to send" in analyse(*options, "--dry-run")
        row = json.loads(analyse(*options, "--json"))
        assert server.unmatched == [] and len(server.paid()) == 22
        assert json.loads(analyse(*options, "--json")) == row and len(server.paid()) == 22
        assert "22 requests, 0 of them to send" in analyse(*options, "--dry-run")
        said = analyse(*options)
    assert "plan only" in said and "left out: length ×2" in said
    assert row["replies"] == 20 and row["failed_replies"] == {"length": 2}
    for at, name in enumerate(("with_block", "announced", "forked", "well_formed", "plan_only")):
        hits = 2 * sum(flags[at] == "1" for flags in EXPECTED.values())
        share = row["shares"][name]
        assert (share["hits"], share["of"]) == (hits, 20), name
        low, high = share["interval"]
        assert low < share["share"] < high
    assert row["degree"]["mean"] > 1
    replies = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(replies) == 22 and {one["sample"] for one in replies} == {1, 2}
    by_id = {one["id"]: one for one in replies}
    assert by_id["good"]["output"] == REPLIES["good"] and by_id["good"]["forked"]
    assert by_id["cut"]["failure"] == "length" and "forked" not in by_id["cut"]
    assert by_id["good"]["paths"] == 2 and by_id["dropped"]["paths"] == 1


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "Q?"}\n')
    assert "--base-url" in analyse(file, exit_code=2)
    endpoint = ["--base-url", "http://127.0.0.1:9/v1", "--model", "m"]
    assert "tokenizer.json" in analyse(file, *endpoint, "--tokenizer", tmp_path, exit_code=2)
