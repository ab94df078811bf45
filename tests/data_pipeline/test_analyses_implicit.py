"""``multiverse analyse implicit``: asked over HTTP, looked up, verified by humans."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.data_pipeline.analyses.agreement import kappa
from sglang_multiverse.data_pipeline.analyses.asking import Asked, Asking
from sglang_multiverse.data_pipeline.analyses.implicit import (
    Listed,
    find_quote,
    list_instances,
    read_list,
    recipe,
)
from sglang_multiverse.data_pipeline.analyses.rows import Row
from sglang_multiverse.data_pipeline.analyses.verification import (
    VerificationError,
    export,
    import_judgements,
)
from sglang_multiverse.data_pipeline.gates.meaning.normal import normal
from sglang_multiverse.data_pipeline.store.store import Store
from sglang_multiverse.data_pipeline.teacher.call import Sampling
from sglang_multiverse.data_pipeline.teacher.caller import StoredCaller
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette, Replied
from sglang_multiverse.data_pipeline.teacher.transport import Endpoint, Transport

from .replay import ReplayServer

CASES = (
    "Okay, parity matters here. If n is even, write n = 2k, so n^2 = 4k^2.\n"
    "If n is odd, write n = 2k + 1, so n^2 = 4k^2 + 4k + 1.\n"
    "Both cases leave a remainder of 0 or 1.\n"
    "Maybe I can check by hand: 3^2 = 9 = 8 + 1. Alternatively, use \\frac{n(n+1)}{2} here.\n"
    "The check is enough."
)
GOOD = (
    "Instance 1: collective\nBranch: If n is even, write n = 2k\n"
    "Branch: If n is odd, write n = 2k + 1\n"
    "Instance 2: selective\nBranch: Maybe I can check by hand: 3^2\n"
    "Branch: Alternatively, use \\frac{n(n+1)}{2} here."
)
INVENTED = GOOD + (
    "\nInstance 3: collective\nBranch: If n is even, write n = 2k\n"
    "Branch: If n is prime, nothing follows\nInstance 4: mixed\nBranch: Both cases leave\n"
    "Branch: The check is\nInstance 5: selective\nBranch: The check is enough."
)


def item(name: str, chain: str, *replies: Replied | str) -> Cassette:
    made = tuple(Replied(one) if isinstance(one, str) else one for one in replies)
    return Cassette(
        name, f"Question {name}?", chain, answer="1", replies={"analysis-implicit": made}
    )


ITEMS = [
    item("good", CASES, Replied(GOOD, faults=({"status": 429, "retry_after": 0.01},))),
    item("invented", CASES, INVENTED),
    item("straight", "One plus one is two. So the answer is 2.", "None."),
    item("mended", CASES, "The chain branches in two places.", f"```\n{GOOD}\n```"),
    item("refused", CASES, *[Replied(refusal="I will not.")] * 3),
]


def write(path: Path, items: list[Cassette]) -> Path:
    rows = [{"id": one.name, "question": one.question, "chain": one.chain} for one in items]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def analyse(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["analyse", "implicit", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result.stdout if exit_code == 0 else result.output


@pytest.fixture
def asked(tmp_path: Path) -> list[Any]:
    """Arguments that all runs of a test share."""
    return [write(tmp_path / "chains.jsonl", ITEMS), "--store", tmp_path / "s.sqlite"]


def test_lists_are_looked_up_and_what_is_invented_is_counted(
    asked: list[Any], tmp_path: Path
) -> None:
    with ReplayServer(ITEMS) as server:
        endpoint = ["--base-url", server.url, "--model", "teacher"]
        dry = analyse(*asked, *endpoint, "--dry-run")
        assert "5 requests, 5 of them to send" in dry and not server.requests
        row = json.loads(analyse(*asked, *endpoint, "--json"))
        assert server.unmatched == []
        assert len(server.paid()) == 5 + 1 + 2, "one repair, two more of what was refused"
        sent = len(server.requests)
        again = json.loads(analyse(*asked, *endpoint, "--json"))
        assert "5 requests, 0 of them to send" in analyse(*asked, *endpoint, "--dry-run")
        assert again == row and len(server.requests) == sent, "everything was in the store"
    assert row["traces"] == 4 and row["unreadable_replies"] == {"refusal": 1}
    assert row["labels"] == {"collective": 3, "selective": 3}
    assert row["refused"] == {"quote-not-found": 1, "unknown-label": 1, "one-branch": 1}
    assert row["branches_per_trace"]["mean"] == 3.0
    assert row["coverage"]["traces"] == 3 and row["coverage"]["share"] == 0.75
    assert row["branches_of_instance"] == {"2": 6} and row["inexact_quotes"] == 0


def test_a_run_that_runs_out_of_budget_goes_on_when_it_is_raised(
    asked: list[Any], tmp_path: Path
) -> None:
    with ReplayServer(ITEMS) as server:
        endpoint = ["--base-url", server.url, "--model", "teacher", "--concurrency", 1]
        endpoint += ["--max-tokens", 1000]
        said = analyse(*asked, *endpoint, "--budget-tokens", 6500, exit_code=1)
        assert "over the budget" in said and "have no reply" in said
        paid = len(server.paid())
        assert 0 < paid < 8
        analyse(*asked, *endpoint)
        assert len(server.paid()) == 8, "nothing was paid twice"


async def stopped_after_one(server: ReplayServer, store: Store) -> Asked[Any]:
    told = recipe("teacher", Sampling(max_tokens=1000))
    rows = [Row(one.name, one.chain, one.question) for one in ITEMS]
    async with Transport(Endpoint(server.url, "teacher")) as transport:
        caller = StoredCaller(store, transport)
        asking: Asking[Any] = Asking(
            {row.id: list_instances(row, told) for row in rows},
            caller,
            workers=1,
            observe=lambda done: asking.stop(),
        )
        return await asking.run()


def test_a_run_that_is_stopped_keeps_what_was_answered(tmp_path: Path) -> None:
    with ReplayServer(ITEMS) as server, Store(tmp_path / "s.sqlite") as store:
        first = asyncio.run(stopped_after_one(server, store))
        assert first.end == "stopped" and list(first.results) == ["good"]
        asyncio.run(stopped_after_one(server, store))
        assert len(server.paid()) == 1, "the second run found it in the store"


def test_what_is_missing_is_named(asked: list[Any], tmp_path: Path) -> None:
    assert "--base-url" in analyse(*asked, exit_code=2)
    assert "--model" in analyse(*asked, "--base-url", "http://127.0.0.1:9/v1", exit_code=2)
    endpoint = ["--base-url", "http://127.0.0.1:9/v1", "--model", "m"]
    secret = ["--base-url", "http://u:pw-SECRET@host/v1", "--model", "m"]
    said = analyse(*asked, *secret, exit_code=2)
    assert "base_url: it holds a user and a password" in said and "SECRET" not in said
    said = analyse(*asked, *endpoint, "--api-key-env", "NO_SUCH_KEY_HERE", exit_code=2)
    assert "NO_SUCH_KEY_HERE" in said
    assert "--price-input" in analyse(*asked, *endpoint, "--budget-cost", 1, exit_code=2)
    assert "give a file" in analyse(exit_code=2)
    (tmp_path / "empty.jsonl").write_text('{"a": 1}\n')
    said = analyse(tmp_path / "empty.jsonl", *endpoint, exit_code=2)
    assert "no field" in said and "no row that can be used" in said


def test_a_wrong_key_ends_the_run_with_the_remedy(asked: list[Any]) -> None:
    with ReplayServer(ITEMS, key="secret") as server:
        said = analyse(*asked, "--base-url", server.url, "--model", "m", exit_code=1)
    assert "401" in said and "ended early" in said


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_humans_verify_and_precision_and_agreement_come_back(
    asked: list[Any], tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"instances.{suffix}"
    with ReplayServer(ITEMS) as server:
        endpoint = ["--base-url", server.url, "--model", "teacher"]
        analyse(*asked, *endpoint, "--export", out)
        said = analyse(*asked, *endpoint, "--export", out, exit_code=2)
        assert "may hold judgements" in said
    # Six instances; the second annotator sees the first four and differs in one verdict.
    verdicts = {
        "ann": ["yes", "yes", "yes", "no", "yes", "yes"],
        "bob": ["yes", "yes", "no", "no", "", ""],
    }
    files = [judge(out, tmp_path / f"{name}.{suffix}", said) for name, said in verdicts.items()]
    options = [part for file in files for part in ("--import", file)]
    row = json.loads(analyse(*options, "--json"))
    assert (row["instances"], row["judged"], row["ties"], row["traces"]) == (6, 6, 1, 4)
    assert row["precision"]["hits"] == 4 and row["precision"]["of"] == 6
    (pair,) = row["agreement"]
    assert pair["instances"] == 4 and pair["same_verdict"] == 3
    assert pair["kappa_verdict"] == pytest.approx(0.5)
    assert row["branches_per_trace"] == 8 / 4
    assert row["coverage"]["hits"] == 2 and row["coverage"]["of"] == 4
    assert row["labels"]["share"] == 1.0 and row["labels"]["kappa"] == 1.0
    said = analyse(*options)
    assert "precision of the LLM: 66.7%" in said and "kappa 0.50" in said


def judge(exported: Path, file: Path, verdicts: list[str]) -> Path:
    """What a human does to an export: a verdict a row, the LLM's label kept where it is yes."""
    if exported.suffix == ".json":
        tasks = json.loads(exported.read_text())
        assert "human_label" in exported.with_suffix(".xml").read_text()
        for task, said in zip(tasks, verdicts, strict=True):
            result = [{"from_name": "is_instance", "value": {"choices": [said]}}]
            label = task["data"]["llm_label"]
            result += [{"from_name": "human_label", "value": {"choices": [label]}}]
            done = {"completed_by": {"email": file.stem}, "was_cancelled": False}
            task["annotations"] = [{**done, "result": result if said == "yes" else result[:1]}]
            if not said:
                task["annotations"] = [{**done, "was_cancelled": True, "result": []}]
        file.write_text(json.dumps(tasks))
        return file
    rows: list[dict[str, Any]]
    if exported.suffix == ".csv":
        with exported.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
    else:
        rows = [json.loads(line) for line in exported.read_text().splitlines()]
    for row, said in zip(rows, verdicts, strict=True):
        assert CASES[int(row["start"]) : int(row["end"])], "offsets are of the chain"
        row["is_instance"] = said
        row["human_label"] = row["llm_label"] if said == "yes" else ""
    if exported.suffix == ".csv":
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_files_of_one_name_are_of_two_people(tmp_path: Path) -> None:
    row = {
        "trace": "t", "instance": 1, "traces": 1, "start": 0, "end": 3, "branches": 2,
        "llm_label": "selective", "human_label": "", "annotator": "",
    }  # fmt: skip
    files = [tmp_path / name / "a.jsonl" for name in ("ann", "bob")]
    for file, said in zip(files, (True, False), strict=True):
        file.parent.mkdir()
        file.write_text(json.dumps({**row, "is_instance": said}))
    found = import_judgements(files)
    assert [(one.annotator, one.right) for one in found] == [("ann/a", True), ("bob/a", False)]


def test_a_configuration_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("mine")
    with pytest.raises(VerificationError, match=r"a\.xml is there already"):
        export({}, {}, tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists() and (tmp_path / "a.xml").read_text() == "mine"


def test_judgements_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    row = {
        "trace": "t", "instance": 1, "traces": 2, "start": 0, "end": 3, "branches": 2,
        "llm_label": "selective", "is_instance": "perhaps", "human_label": "", "annotator": "",
    }  # fmt: skip
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(row))
    assert "write yes or no" in analyse("--import", file, exit_code=2)
    file.write_text(json.dumps({**row, "is_instance": "yes", "human_label": "both"}))
    assert "collective or selective" in analyse("--import", file, exit_code=2)
    file.write_text('{"trace": "t"}')
    assert "is_instance" in analyse("--import", file, exit_code=2)
    file.write_text(json.dumps({**row, "is_instance": "yes"}))
    other = tmp_path / "b.jsonl"
    other.write_text(json.dumps({**row, "is_instance": "no", "traces": 9}))
    assert "different exports" in analyse("--import", file, "--import", other, exit_code=2)
    assert "error:" in analyse("--import", tmp_path / "none.csv", exit_code=2)
    tasks = tmp_path / "c.json"
    tasks.write_text("{}")
    assert "a list of tasks" in analyse("--import", tasks, exit_code=2)


@pytest.mark.parametrize(
    ("quote", "exact"),
    [
        ("If n is odd, write n = 2k + 1", True),
        ('"If n is odd, write n = 2k + 1"', True),
        ("If n is odd, write n = 2k + 1 ...", True),
        ("so n^2 = 4k^2.\nIf  n is odd", False),
        ("so n^2 = 4k^2. If n is odd", False),
    ],
)
def test_quotations_are_found_where_they_stand(quote: str, exact: bool) -> None:
    found = find_quote(quote, CASES, normal(CASES))
    assert found is not None and found.exact is exact
    assert CASES[found.start : found.end] == found.text
    assert "n is odd" in found.text


@pytest.mark.parametrize("quote", ["if n is odd", "If n is odd, write m", "", "…", "n = 3k"])
def test_quotations_that_differ_in_a_letter_are_not_found(quote: str) -> None:
    assert find_quote(quote, CASES, normal(CASES)) is None


def test_a_repeated_quotation_is_taken_after_the_branch_before_it() -> None:
    chain = "Try it. Value 1 fails. Try it. Value 2 works."
    reply = "Instance 1: selective\nBranch: Try it. Value 1\nBranch: Try it."
    listed = read_list(reply, chain).value
    assert isinstance(listed, Listed)
    first, second = listed.instances[0].branches
    assert (first.start, second.start) == (0, 23) and second.occurrences == 2
    same = read_list("Instance 1: selective\nBranch: Value 1\nBranch: Value 1", chain).value
    assert same is not None and same.refused[0].code == "same-place"


@pytest.mark.parametrize("reply", ["None", "None.", "**None**", "none"])
def test_no_instance_is_an_answer(reply: str) -> None:
    assert read_list(reply, CASES).value == Listed()


@pytest.mark.parametrize("reply", ["", "I see no branches.", "Branch: Both cases"])
def test_a_reply_that_is_no_list_goes_back(reply: str) -> None:
    reading = read_list(reply, CASES)
    assert reading.value is None and reading.findings[0].code == "unreadable-list"


@pytest.mark.parametrize("mark", ["**Instance 1**: collective", "- Instance 1 (collective)"])
def test_marks_around_the_form_do_no_harm(mark: str) -> None:
    listed = read_list(
        f"{mark}\n  - Branch 1: If n is even\n* **Branch:** If n is odd", CASES
    ).value
    assert listed is not None and len(listed.instances) == 1, listed


def test_kappa_is_not_made_up() -> None:
    assert kappa([]) is None and kappa([("yes", "yes")] * 5) is None
    assert kappa([("yes", "yes"), ("no", "no")]) == 1.0
