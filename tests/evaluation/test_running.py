"""Suites run against a server: what is asked, what is kept, what is asked again."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from filelock import FileLock
from inspect_ai.log import EvalError, EvalRetryError, write_eval_log
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.dialect import MULTIVERSE
from sglang_multiverse.evaluation import report, running
from sglang_multiverse.evaluation.publishing import WITHHELD, publish
from sglang_multiverse.evaluation.runs import LogsError, log_files, read_arms, read_log
from sglang_multiverse.evaluation.suite import Sampling, ServerOf, Suite, SuiteError, load
from sglang_multiverse.tiny import machines

from .fake import serving


def suite_of(tmp_path: Path, url: str, **given: Any) -> Suite:
    path = tmp_path / "suite.yaml"
    arms = given.pop("arms", [{"task": "tiny", "modes": ["parallel", "off"], "limit": 10}])
    servers = {"one": {"base_url": url}}
    path.write_text(yaml.safe_dump({"name": "t", "servers": servers, "arms": arms, **given}))
    return load(path)


def quiet(line: str) -> None:
    pass


def parallel(body: dict[str, Any]) -> bool:
    return bool(body["messages"][-1]["content"].endswith(MULTIVERSE.parallel_prompt))


def test_a_whole_run_and_its_report(tmp_path: Path) -> None:
    said: list[str] = []
    with serving(wrong=lambda body: body["seed"] % 3 == 0) as fake:
        suite = suite_of(tmp_path, fake.url, epochs=2, sampling={"temperature": 0.5})
        assert running.run(suite, tmp_path / "logs", said.append)
        assert len(fake.requests) == 2 * 10 * 2
        assert running.run(suite, tmp_path / "logs", quiet)
        assert len(fake.requests) == 40, "a run that is whole asks nothing again"
    assert "40 of 40 answers" in said[-1] and "left" in said[-1]
    off = [body for body in fake.requests if not parallel(body)]
    assert all(body["custom_params"] == {"multiverse": False} for body in off)
    assert all("custom_params" not in body for body in fake.requests if parallel(body))
    assert {body["temperature"] for body in fake.requests} == {0.5}
    seeds = [sorted(body["seed"] for body in fake.requests if parallel(body) is one)
             for one in (True, False)]  # fmt: skip
    assert seeds[0] == seeds[1], "the same questions and seeds in both modes"
    assert len(set(seeds[0])) == 20

    found = report.write(tmp_path / "logs", tmp_path / "out")
    one, two = found["arms"]
    assert [one["arm"], two["arm"]] == ["tiny parallel", "tiny off"]
    wrong = sum(seed % 3 == 0 for seed in seeds[0])
    for arm in (one, two):
        assert arm["accuracy"]["value"] == pytest.approx(1 - wrong / 20)
        assert (arm["accuracy"]["questions"], arm["epochs"], arm["answered"]) == (10, 2, 20)
    assert one["parallelism"]["value"] == pytest.approx(2, abs=0.02)
    assert two["parallelism"]["value"] == 1.0
    assert one["goals_not_forked"] == sum(seed % 2 for seed in seeds[0])
    assert two["goals_not_forked"] == 0
    assert one["net_parallelism"]["value"] == pytest.approx(1.5)
    (difference,) = found["differences"]
    assert difference["accuracy"]["value"] == 0.0
    assert difference["critical_path"]["value"] > 0, "the second less the first"
    curve = next(one for one in found["within_budget"] if one["arm"] == "tiny parallel")
    assert curve["points"][-1]["value"] == pytest.approx(1 - wrong / 20)
    assert curve["points"][0]["value"] < curve["points"][-1]["value"]
    head = found["head"][0]
    assert head["data"]["questions"] == 10
    assert head["prompt_ending"] == MULTIVERSE.parallel_prompt
    assert head["server"]["model_path"] == "/fake"
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| tiny parallel |" in text
    assert "- **limits**: max_tokens 2400, seed 0" in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "out" / line.partition("(")[2].rstrip(")")).stat().st_size > 1000
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == found


def test_a_changed_suite_is_asked_anew_and_reported_alone(tmp_path: Path) -> None:
    with serving() as fake:

        def asked(**given: Any) -> tuple[int, list[int]]:
            before = len(fake.requests)
            arms = [{"task": "tiny", "limit": given.pop("limit", 3)}]
            suite = suite_of(tmp_path, fake.url, arms=arms, **given)
            assert running.run(suite, tmp_path / "logs", quiet)
            return len(fake.requests) - before, [len(a.runs) for a in read_arms(tmp_path / "logs")]

        assert asked() == (3, [3])
        assert asked(limit=5) == (5, [5])
        assert asked(sampling={"temperature": 0.5}) == (3, [3])
        assert asked(epochs=2) == (6, [6])
        assert asked() == (0, [3]), "the first again: nothing to ask, and its own report"
        (arm,) = read_arms(tmp_path / "logs")
        assert arm.about["sampling"] == {}


def test_arms_that_differ_in_data_or_limits_alone_are_reported_apart(tmp_path: Path) -> None:
    row = {"question": str(next(machines.questions(3, "test"))), "answer": "1"}
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    arms: list[dict[str, Any]] = [
        {"task": "own", "data": "a.jsonl"},
        {"task": "own", "data": "b.jsonl"},
        {"task": "tiny", "limit": 1},
        {"task": "tiny", "limit": 1, "max_tokens": 100},
        {"task": "tiny", "limit": 1, "modes": ["off"]},
    ]
    with serving() as fake:
        assert running.run(suite_of(tmp_path, fake.url, arms=arms), tmp_path / "logs", quiet)
        assert len(fake.requests) == 5
    assert [arm.name for arm in read_arms(tmp_path / "logs")] == [
        "own parallel data a.jsonl",
        "own parallel data b.jsonl",
        "tiny parallel max_tokens 2400",
        "tiny parallel max_tokens 100",
        "tiny off",
    ]


def test_questions_that_changed_under_their_name_are_not_mixed(tmp_path: Path) -> None:
    first, second = machines.questions(3, "test"), machines.questions(4, "test")
    with serving() as fake:
        for number, some in enumerate((first, second)):
            one = next(some)
            row = {"id": 1, "question": str(one), "answer": one.answer}
            (tmp_path / "rows.jsonl").write_text(json.dumps(row))
            arms = [{"task": "math500", "data": "rows.jsonl"}]
            suite = suite_of(tmp_path, fake.url, arms=arms)
            if number == 0:
                running.run(suite, tmp_path / "logs", quiet)
                continue
            with pytest.raises(SuiteError, match="are others than when"):
                running.run(suite, tmp_path / "logs", quiet)


def test_arms_of_one_task_are_all_reported(tmp_path: Path) -> None:
    """Which differ in their questions, their number or their epochs, and so have as many columns
    of a table as they have epochs."""
    arms = [
        {"task": "tiny", "limit": 2},
        {"task": "tiny", "limit": 3, "epochs": 4},
        {"task": "tiny", "limit": 3, "data": "nested", "epochs": 3},
    ]
    with serving() as fake:
        suite = suite_of(tmp_path, fake.url, arms=arms)
        said: list[str] = []
        assert running.run(suite, tmp_path / "logs", said.append)
        assert len(fake.requests) == 2 + 3 * 4 + 3 * 3
        assert running.run(suite, tmp_path / "logs", said.append)
    assert f"3 arms, 23 answers, 23 of them known, of fake at {fake.url}" in said[-1]
    found = report.write(tmp_path / "logs", tmp_path / "out")
    assert [arm["arm"] for arm in found["arms"]] == [
        "tiny parallel data None, epochs 1, limit 2",
        "tiny parallel data None, epochs 4, limit 3",
        "tiny parallel data nested, epochs 3, limit 3",
    ]
    lines = (tmp_path / "out" / "report.md").read_text().splitlines()
    head = lines.index(
        "| arm | pass@1 | pass@2 | pass@3 | pass@4 | majority@2 | majority@3 | majority@4 |"
    )
    four, three = (line.strip("| ").split(" | ") for line in lines[head + 2 : head + 4])
    assert lines[head + 4] == "", "what was asked once has no row"
    assert [cell == "–" for cell in four] == [
        cell == "pass@3" or cell == "majority@3" for cell in lines[head].strip("| ").split(" | ")
    ]
    assert [number for number, cell in enumerate(three) if cell == "–"] == [4, 7]


def test_answers_are_known_whichever_suite_was_run_last(tmp_path: Path) -> None:
    said: list[str] = []
    with serving() as fake:
        for seed in (1, 2, 1):
            suite = suite_of(tmp_path, fake.url, arms=[{"task": "tiny", "limit": 2}], seed=seed)
            assert running.run(suite, tmp_path / "logs", said.append)
    assert "2 of them known" in said[-1]


def test_budgets_bound_the_critical_path_or_where_nothing_forks_the_tokens(tmp_path: Path) -> None:
    arms = [{"task": "tiny", "modes": ["sequential", "off"], "budgets": [64], "limit": 1}]
    with serving() as fake:
        assert running.run(suite_of(tmp_path, fake.url, arms=arms), tmp_path / "logs", quiet)
    sequential, off = fake.requests
    assert sequential["custom_params"] == {"multiverse": {"max_critical_path": 64}}
    assert sequential["max_tokens"] == 2400
    assert off["custom_params"] == {"multiverse": False}
    assert off["max_tokens"] == 64


def test_what_has_no_answer_is_asked_again_and_nothing_else(tmp_path: Path) -> None:
    broken = [True]
    with serving(fault=lambda number: 500 if broken[0] and number >= 7 else None) as fake:
        arms = [{"task": "tiny", "limit": 10}]
        suite = suite_of(tmp_path, fake.url, arms=arms, connections=1, retries=0)
        assert not running.run(suite, tmp_path / "logs", quiet)
        (arm,) = read_arms(tmp_path / "logs")
        assert sum(run.outcome == "answered" for run in arm.runs) == 7
        assert {run.outcome for run in arm.runs} == {"answered", "error"}
        report.write(tmp_path / "logs", tmp_path / "out")
        assert "3 runs have no answer yet" in (tmp_path / "out" / "report.md").read_text()
        broken[0] = False
        before = len(fake.requests)
        assert running.run(suite, tmp_path / "logs", quiet)
        assert len(fake.requests) - before == 3
        (arm,) = read_arms(tmp_path / "logs")
        assert [run.outcome for run in arm.runs] == ["answered"] * 10


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9 half-way: answers that were written are not asked for again."""
    with serving() as fake:
        suite_of(tmp_path, fake.url, arms=[{"task": "tiny", "limit": 40}], connections=2)
        command = [sys.executable, "-m", "sglang_multiverse.cli", "eval", "run"]
        command += [str(tmp_path / "suite.yaml"), "-o", str(tmp_path / "out")]
        fake.delay = 0.3
        with subprocess.Popen(
            command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        ) as process:
            deadline = time.monotonic() + 120
            while len(fake.requests) < 25 and time.monotonic() < deadline:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
        first = len(fake.requests)
        assert 25 <= first < 40
        fake.delay = 0.0
        assert running.run(load(tmp_path / "suite.yaml"), tmp_path / "out" / "logs", quiet)
        again = len(fake.requests) - first
    assert 40 - first <= again <= 40 - first + 15, (first, again)
    (arm,) = read_arms(tmp_path / "out" / "logs")
    assert [run.outcome for run in arm.runs] == ["answered"] * 40


def test_ctrl_c_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    with serving() as fake:
        suite_of(tmp_path, fake.url, arms=[{"task": "tiny", "limit": 30}], connections=2)
        command = [sys.executable, "-m", "sglang_multiverse.cli", "eval", "run"]
        command += [str(tmp_path / "suite.yaml"), "-o", str(tmp_path / "out")]
        fake.delay = 0.3
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            deadline = time.monotonic() + 120
            while len(fake.requests) < 9 and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, said = process.communicate(timeout=60)
        assert process.returncode == 1
        assert b"stopped; the same command goes on from here" in said
        assert b"Traceback" not in said and out == b""
        assert b"without an answer" not in said, "what was in flight did not fail"
        report.write(tmp_path / "out" / "logs", tmp_path / "cut")
        text = (tmp_path / "cut" / "report.md").read_text()
        (row,) = json.loads((tmp_path / "cut" / "report.json").read_text())["arms"]
        assert row["not_asked"] > 0
        assert row["answered"] + row["errors"] + row["not_asked"] == 30
        assert f"{30 - row['answered']} runs have no answer yet" in text
        assert f"{row['not_asked']} were not asked" in text
        fake.delay, first = 0.0, len(fake.requests)
        heard: list[str] = []
        suite = load(tmp_path / "suite.yaml")
        assert running.run(suite, tmp_path / "out" / "logs", heard.append)
        again = len(fake.requests) - first
    assert 30 - first <= again <= 30 - first + 2, "those in flight alone twice"
    assert "of them known" in heard[0]
    assert heard[-1].startswith("30 of 30 answers")


def test_refused_requests_and_retries_are_told_apart(tmp_path: Path) -> None:
    faults = {0: 400, 1: 503}
    with serving(fault=faults.get) as fake:
        arms = [{"task": "tiny", "limit": 4}]
        suite = suite_of(tmp_path, fake.url, arms=arms, connections=1)
        assert running.run(suite, tmp_path / "logs", quiet)
    assert len(fake.requests) == 5
    found = report.write(tmp_path / "logs", tmp_path / "out")
    (arm,) = found["arms"]
    assert (arm["answered"], arm["refused"], arm["errors"], arm["retries"]) == (3, 1, 0, 1)
    assert arm["accuracy"]["value"] == 0.75


def test_why_there_is_no_answer_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    with serving(fault=lambda number: 401) as fake:
        suite = suite_of(tmp_path, fake.url, arms=[{"task": "tiny", "limit": 2}])
        assert not running.run(suite, tmp_path / "logs", said.append)
    assert said[-1].startswith("one: instead of an answer, most often: ")
    assert "HTTP 401: fault 401" in said[-1]


def test_a_server_that_takes_openais_fields_alone(tmp_path: Path) -> None:
    arms = [{"task": "tiny", "modes": ["sequential", "off"], "budgets": [None, 64], "limit": 4}]
    with serving() as fake:
        fake.strict = True
        suite = suite_of(tmp_path, fake.url, arms=arms, connections=1)
        heard: list[str] = []
        assert running.run(suite, tmp_path / "logs", heard.append)
    plain = [body for body in fake.requests if "return_meta_info" not in body]
    assert len(plain) == 12, "but for the budget of the critical path, which it cannot keep"
    found = report.write(tmp_path / "logs", tmp_path / "out")
    assert [(arm["answered"], arm["refused"]) for arm in found["arms"]] == [
        (4, 0), (0, 4), (4, 0), (4, 0)
    ]  # fmt: skip
    (said,) = found["arms"][1]["reasons"]
    assert "HTTP 400: Unrecognized request arguments supplied: custom_params" in said
    assert (
        f"- tiny sequential budget 64, 4 ×: `{said}`"
        in (tmp_path / "out" / "report.md").read_text()
    )
    assert "4 refused (last: HTTP 400: Unrecognized" in heard[-1]


def test_a_server_that_asks_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIVERSE_API_KEY", raising=False)
    with serving() as fake:
        fake.key = "k"
        suite = suite_of(tmp_path, fake.url)
        with pytest.raises(SuiteError, match=r"401.*read from MULTIVERSE_API_KEY"):
            running.run(suite, tmp_path / "logs", quiet)
        monkeypatch.setenv("MULTIVERSE_API_KEY", "k")
        assert running.run(suite, tmp_path / "logs", quiet)
    (arm, _) = read_arms(tmp_path / "logs")
    assert arm.about["server_info"]["model_path"] == "/fake"
    assert "Bearer" not in (tmp_path / "logs" / "suite.json").read_text()


def test_another_model_under_the_same_name_is_asked_anew() -> None:
    arm = {"task": "tiny", "mode": "parallel"}

    def print_of(**server: Any) -> str:
        return running.fingerprint("mv", ServerOf(**server), "mv", arm, Sampling())

    one = print_of(serve="models/a")
    assert print_of(serve="models/b") != one
    assert print_of(serve="models/a", plugin=False) != one
    assert print_of(serve="models/a", flags=["--mem-fraction-static", "0.7"]) == one
    assert print_of(base_url="http://h:1") == print_of(base_url="http://h:2")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(SuiteError, match=r"server 'one': .*is a server running at"):
        running.run(suite, tmp_path / "logs", quiet)


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"]
)
def test_what_is_no_server_of_models_is_one_line(tmp_path: Path, said: bytes) -> None:
    """Another protocol, and half an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    with listening.accept()[0] as asked:
                        asked.recv(10_000)
                        asked.sendall(said)

        Thread(target=serve, daemon=True).start()
        suite = suite_of(tmp_path, f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(SuiteError, match=r"server 'one': /v1/models: .*is a server running"):
            running.run(suite, tmp_path / "logs", quiet)
        listening.shutdown(socket.SHUT_RDWR)


def test_one_run_at_a_time_has_a_folder(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with serving() as fake, FileLock(tmp_path / "logs" / ".lock"):
        with pytest.raises(SuiteError, match="another run has"):
            running.run(suite_of(tmp_path, fake.url), tmp_path / "logs", quiet)
        assert fake.requests == []


def test_no_logs(tmp_path: Path) -> None:
    with pytest.raises(LogsError, match="no folder"):
        read_arms(tmp_path / "nothing")
    with pytest.raises(LogsError, match="no log"):
        read_arms(tmp_path)


def test_a_report_of_half_a_run_says_so(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    with serving() as fake:
        arms = [{"task": "tiny", "limit": 3}]
        assert running.run(suite_of(tmp_path, fake.url, arms=arms, epochs=2), logs, quiet)
    said = "runs have no answer yet**: 4 were not asked"
    report.write(logs, tmp_path)
    assert said not in (tmp_path / "report.md").read_text()
    (path,) = log_files(logs)
    log = read_log(path)
    log.samples = (log.samples or [])[:2]
    write_eval_log(log, str(path))
    assert report.write(logs, tmp_path)["arms"][0]["not_asked"] == 4
    assert f"**4 {said}" in (tmp_path / "report.md").read_text()


def test_a_damaged_log_is_named_and_the_others_go_on_without_it(tmp_path: Path) -> None:
    logs = tmp_path / "out" / "logs"
    with serving() as fake:
        suite = suite_of(
            tmp_path, fake.url, arms=[{"task": "tiny", "modes": ["parallel", "off"], "limit": 2}]
        )
        assert running.run(suite, logs, quiet)
        damaged, whole_one = sorted(logs.rglob("*.eval"))
        damaged.write_bytes(whole_one.read_bytes()[:-4000])
        (logs / "suite.json").write_text("{")
        for command in (
            ["run", str(tmp_path / "suite.yaml"), "-o", str(tmp_path / "out")],
            ["report", str(logs)],
            ["publish", str(logs), str(tmp_path / "shown")],
        ):
            found = CliRunner().invoke(app, ["eval", *command])
            assert found.exit_code == 2
            assert f"{damaged} is damaged" in found.output.splitlines()[-1]
        damaged.unlink()
        assert running.run(suite, logs, quiet)
        assert len(fake.requests) == 2 * 2 + 2
    assert [len(arm.runs) for arm in read_arms(logs)] == [2, 2]


def test_private_questions_do_not_leave_in_published_logs(tmp_path: Path) -> None:
    with serving() as fake:
        arms = [{"task": "tiny", "limit": 3}]
        suite = suite_of(tmp_path, fake.url, arms=arms)
        assert running.run(suite, tmp_path / "logs", quiet)
    asked = [body["messages"][-1]["content"] for body in fake.requests]
    ((plain, stripped),) = publish(tmp_path / "logs", tmp_path / "as they are")
    assert not stripped and asked[0][:30] in whole(plain)
    mark_private(tmp_path / "logs")
    ((path, stripped),) = publish(tmp_path / "logs", tmp_path / "shown")
    text = whole(path)
    assert stripped and WITHHELD in text
    for question in asked:
        for words in (question[:30], question.split(",")[0], "left 3:"):
            assert words not in text
    before, after = (
        report.report(read_arms(folder)) for folder in (tmp_path / "logs", tmp_path / "shown")
    )
    assert before["arms"] == after["arms"], "and every figure is still there"
    with pytest.raises(LogsError, match="not empty"):
        publish(tmp_path / "logs", tmp_path / "shown")


def test_no_field_of_a_private_log_says_what_was_asked(tmp_path: Path) -> None:
    """Answers that quote a choice, errors of attempts before the last one, and of the whole run;
    answers that were alike still are, so that majorities stay the same."""
    secret = "the words of a choice"
    logs = tmp_path / "logs"
    with serving(wrong=lambda body: body["seed"] % 2 == 0) as fake:
        suite = suite_of(tmp_path, fake.url, arms=[{"task": "tiny", "limit": 2}], epochs=3)
        assert running.run(suite, logs, quiet)
    mark_private(logs)
    ((path, log),) = [(path, read_log(path)) for path in log_files(logs)]
    error = {"message": secret, "traceback": secret, "traceback_ansi": secret}
    log.error = EvalError(**error)
    for sample in log.samples or []:
        sample.error_retries = [EvalRetryError(**error)]
        for score in (sample.scores or {}).values():
            score.explanation = secret
            if score.answer is not None:
                score.answer += secret
                score.metadata = {**(score.metadata or {}), "answer": score.answer}
    write_eval_log(log, str(path))
    ((shown, _),) = publish(logs, tmp_path / "shown")
    assert secret in whole(path) and secret not in whole(shown)
    before, after = (report.report(read_arms(folder))["arms"] for folder in (logs, shown.parent))
    assert before == after
    assert before[0]["retries"] == 6


def mark_private(logs: Path) -> None:
    for path in log_files(logs):
        log = read_log(path)
        assert log.eval.metadata is not None
        log.eval.metadata["data"]["private"] = True
        write_eval_log(log, str(path))


def whole(path: Path) -> str:
    """All that a log file says, unpacked."""
    return read_log(path).model_dump_json()


def grade(*lines: str, options: tuple[str, ...] = ("--json",)) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["eval", "grade", "-", *options], input="\n".join(lines))
    return found.exit_code, found.output


def test_grading_a_file_of_any_origin() -> None:
    code, said = grade(
        json.dumps({"id": 1, "output": "<Think>x</Think>\n\\boxed{0.5}", "reference": "1/2"}),
        "",
        json.dumps({"id": "b", "output": "<Think>and so", "reference": 3}),
        json.dumps({"id": "c", "output": "Answer: (C)", "reference": "C", "comparison": "choice"}),
    )
    assert code == 0
    assert [json.loads(line) for line in said.splitlines()] == [
        {"id": 1, "correct": True, "answer": "0.5", "extraction": "boxed", "truncated": False},
        {"id": "b", "correct": False, "answer": None, "extraction": "none", "truncated": True},
        {"id": "c", "correct": True, "answer": "(C)", "extraction": "answer", "truncated": False},
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "holds no line"),
        ("{", "stdin:1: not JSON"),
        ('{"id": ' + "[" * 100_000, "stdin:1: not JSON"),
        ("[]", "stdin:1: expected a JSON object"),
        ('{"id": 1, "output": "x"}', "stdin:1 lacks reference"),
        ('{"id": 1, "output": "x", "reference": 1, "comparison": "x"}', "comparison 'x' is none"),
    ],
)
def test_a_file_that_cannot_be_graded(line: str, said: str) -> None:
    code, output = grade(line)
    assert code == 2
    assert said in output and "Traceback" not in output


def test_what_cannot_be_encoded_does_not_end_the_grading() -> None:
    code, said = grade('{"id": "\\ud800", "output": "\\\\boxed{\\udfff}", "reference": "1"}')
    assert code == 0
    assert json.loads(said)["id"] == json.loads(said)["answer"] == "\ufffd"


def test_files_to_grade_may_be_packed_and_must_be_files(tmp_path: Path) -> None:
    row = {"id": 1, "output": "Answer: x", "reference": "x"}
    packed, other = tmp_path / "outputs.jsonl.gz", tmp_path / "latin.jsonl"
    packed.write_bytes(gzip.compress(json.dumps(row).encode()))
    other.write_bytes(b'{"id": "\xe9"}')
    for file, code, said in (
        (packed, 0, "1 of 1 right"),
        (other, 2, f"{other}:1: not UTF-8"),
        (tmp_path, 2, f"{tmp_path}: Is a directory"),
    ):
        found = CliRunner().invoke(app, ["eval", "grade", str(file)])
        assert found.exit_code == code and said in found.output, found.output


def test_bad_commands_are_one_line(tmp_path: Path) -> None:
    for command in (
        ["run", str(tmp_path / "no.yaml")],
        ["report", str(tmp_path / "no")],
        ["publish", str(tmp_path / "no"), str(tmp_path / "x")],
        ["grade", str(tmp_path / "no.jsonl")],
    ):
        found = CliRunner().invoke(app, ["eval", *command])
        assert found.exit_code == 2
        assert len(found.output.strip().splitlines()) == 1, found.output
