"""Answers drawn from a model: what is kept of them, and why the others are not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.data_pipeline.recipe import Recipe
from sglang_multiverse.data_pipeline.record import Record, Rejection
from sglang_multiverse.data_pipeline.sampling.drawing import choose, read, sample
from sglang_multiverse.data_pipeline.sampling.options import Choice, Draws
from sglang_multiverse.data_pipeline.teacher.call import Reply, Sampling
from sglang_multiverse.data_pipeline.teacher.cassette import Replied
from sglang_multiverse.dialect import MULTIVERSE
from sglang_multiverse.tiny import machines

from .replay import ReplayServer, completion

ASKED = list(islice(machines.questions(1, "train", counts=(2,)), 6))
RIGHT = [machines.solution(one, "parallel") for one in ASKED]
FLAT = machines.solution(ASKED[0], "sequential")


def record(number: int = 0) -> Record:
    return Record("id", str(ASKED[number]), "", answer=ASKED[number].answer)


def recipe(**given: Any) -> Recipe:
    draws = Draws(comparison="words", **given)
    return Recipe("m", draws=draws, sampling=Sampling(seed=7, max_tokens=50))


def drawn(*replies: str | Reply, **given: Any) -> tuple[Record | Rejection, list[Any]]:
    """What the stage makes of these replies, and the calls it made."""
    steps, calls = sample(record(), recipe(n=len(replies), **given)), []
    try:
        calls.append(next(steps))
        for reply in replies:
            calls.append(steps.send(reply if isinstance(reply, Reply) else Reply(reply)))
    except StopIteration as end:
        return end.value, calls
    raise AssertionError("the stage asked for more")


def spoilt(old: str, new: str) -> str:
    assert old in RIGHT[0]
    return RIGHT[0].replace(old, new)


def test_every_draw_is_a_call_of_its_own() -> None:
    result, calls = drawn(RIGHT[0], RIGHT[0], system="Think.", extra={"separate_reasoning": False})
    assert isinstance(result, Record)
    assert [call.attempt for call in calls] == [1, 2]
    assert len({call.key for call in calls}) == 2
    system, user = calls[0].messages
    assert system.content == "Think."
    assert user.content == f"{ASKED[0]} {MULTIVERSE.parallel_prompt}"
    assert [call.sampling.seed for call in calls] == [8, 9]
    assert calls[0].sampling.extra == {"separate_reasoning": False}


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (RIGHT[0], ""),
        (RIGHT[1], "wrong-answer"),
        (FLAT, "no-block"),
        (spoilt("\n</Path>", "", ), "unclosed-path"),
        (RIGHT[0].rpartition("Answer:")[0], "no-answer"),
        (Reply("", "length"), "length"),
        (Reply("no", "refusal"), "refusal"),
        ("", "no-answer"),
    ],
)  # fmt: skip
def test_what_an_answer_is_worth(reply: str | Reply, code: str) -> None:
    one = reply if isinstance(reply, Reply) else Reply(reply)
    assert read(one, record(), recipe()).code == code


def test_benefit_is_a_gate_and_undoes_nothing() -> None:
    told = recipe()
    dear = Recipe(**{**vars(told), "benefit": 10_000})
    assert read(Reply(RIGHT[0]), record(), dear).code == "costly-block"


@pytest.mark.parametrize(
    ("policy", "kept"), [("shortest", ["long"]), ("parallel", ["long"]), ("all", ["long", "flat"])]
)
def test_the_choice(policy: Choice, kept: list[str]) -> None:
    """A flat answer has fewer tokens and a longer critical path than one that forks."""
    from dataclasses import replace

    told = recipe(choose=policy)
    told = replace(told, gates=replace(told.gates, require_block=False))
    named = {RIGHT[0]: "long", FLAT: "flat"}
    some = [read(Reply(text), record(), told) for text in (RIGHT[0], FLAT, RIGHT[1], RIGHT[0])]
    assert told.draws is not None
    assert [named[one.text] for one in choose(some, told.draws)] == kept


def test_of_like_answers_one_is_chosen() -> None:
    result, _ = drawn(RIGHT[0], RIGHT[0], RIGHT[0])
    assert isinstance(result, Record)
    assert [one["chosen"] for one in result.details["samples"]] == [True, False, False]


def test_no_usable_answer_is_a_rejection_that_says_why() -> None:
    broken = spoilt("\n</Path>", "")
    result, _ = drawn(RIGHT[1], RIGHT[2], broken)
    assert isinstance(result, Rejection)
    assert result.code == "unclosed-path", "of the right ones"
    assert result.message.startswith("1 of 3 answers right")
    wrong, _ = drawn(RIGHT[1], RIGHT[2])
    assert isinstance(wrong, Rejection)
    assert wrong.code == "wrong-answer"
    assert wrong.message.endswith(f"right is {ASKED[0].answer!r}")
    assert [one["right"] for one in wrong.details["samples"]] == [False, False]


@contextmanager
def model(says: Callable[[str, int], str]) -> Iterator[tuple[str, list[str]]]:
    """An endpoint that answers the n-th asking of a question with ``says(question, n)``."""
    asked: list[str] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            user = body["messages"][-1]["content"]
            with lock:
                number = asked.count(user)
                asked.append(user)
            raw = json.dumps(
                {
                    "id": "x", "object": "chat.completion", "created": 1, "model": "m",
                    "choices": [{"index": 0, "finish_reason": "stop", "message": {
                        "role": "assistant", "content": says(user, number)}}],
                    "usage": {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14},
                }
            ).encode()  # fmt: skip
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


def files(tmp_path: Path, url: str, **sample_part: Any) -> tuple[str, list[str]]:
    rows = [{"question": str(one), "answer": one.answer} for one in ASKED]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = {
        "source": {"files": [str(tmp_path / "q.jsonl")]},
        "endpoint": {"base_url": url, "model": "m", "concurrency": 4},
        "sample": {"n": 3, "comparison": "words", **sample_part},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(told))
    return str(tmp_path / "c.yaml"), ["--store", str(tmp_path / "s.sqlite")]


def curate(*words: str) -> Any:
    return CliRunner().invoke(app, ["curate", *words])


def answers(user: str, number: int) -> str:
    """The first answer to a question is wrong, the second right and flat, the third forks; to the
    last question all are wrong."""
    index = next((i for i, one in enumerate(ASKED) if user.startswith(str(one))), None)
    if index is None:
        return "ok"  # the first request
    if index == 5 or number == 0:
        return RIGHT[(index + 1) % 5]
    return machines.solution(ASKED[index], "sequential" if number == 1 else "parallel")


def test_from_questions_to_a_dataset_that_trains(tmp_path: Path) -> None:
    with model(answers) as (url, asked):
        config, store = files(tmp_path, url)
        dry = curate("sample", config, *store, "--dry-run")
        assert "6 questions, 18 answers, at most" in dry.output
        assert asked == []
        done = curate("sample", config, *store)
        assert done.exit_code == 0, done.output
        assert len(asked) == 1 + 18
        again = curate("sample", config, *store)
        assert len(asked) == 1 + 18, "nothing is drawn twice"
        more = curate("sample", config, *store, "--n", "4")
        assert len(asked) == 1 + 18 + 1 + 6, "the first three of each are known"
    assert more.exit_code == 0
    for said in (
        "18 answers to 6 questions: 55.6 % [",
        "13 forked, 5 chosen; pass@3 83.3 % [",
        "1 questions without a right answer, 1 without a row",
        "not used: wrong-answer ×8, no-block ×5",
    ):
        assert said in again.output, again.output
    assert "5 accepted, 1 rejected, 0 failed, 0 pending of 6" in done.output

    run = json.loads(curate("status", *store, "--json").output)
    assert run["rejections"] == [{"stage": "sample", "code": "wrong-answer", "items": 1}]
    exported = curate("export", str(tmp_path / "out"), *store)
    assert exported.exit_code == 0, exported.output
    figures = {one.stem for one in (tmp_path / "out" / "figures").iterdir()}
    assert figures == {"parallelism", "net_parallelism", "blocks"}, "no row has a distance"
    (data,) = (tmp_path / "out" / "data").iterdir()
    rows = pq.read_table(data).to_pylist()
    assert sorted(row["text"] for row in rows) == sorted(RIGHT[:5])
    assert {row["distance"] for row in rows} == {None}
    (mixed,) = (tmp_path / "out" / "mixed").iterdir()
    pairs = pq.read_table(mixed).to_pylist()
    assert len(pairs) == 5
    assert all(row["prompt"][0]["content"].endswith(MULTIVERSE.parallel_prompt) for row in pairs)
    assert {row["repairs"] for row in rows} == {0}, "draws are none"
    assert run["stages"]["sample"]["repairs"] == 0
    shown = curate("show", *store, rows[0]["id"]).output
    assert "  sample 4: done" in shown and "attempt" not in shown
    card = (tmp_path / "out" / "README.md").read_text()
    assert "its own answers: 4 to each question" in card
    checked = curate("check", str(data), "--fail-on", "rejected")
    assert checked.exit_code == 0, checked.output
    assert "5 accepted, 0 rejected" in checked.output


def test_answers_are_drawn_in_batches_too(tmp_path: Path) -> None:
    """The same rows, at half the price."""
    rows, spent = {}, {}
    with ReplayServer() as server:
        handler: Any = server.RequestHandlerClass

        class Model(handler):  # type: ignore[misc]
            def answer(self, body: dict[str, Any]) -> None:
                user = body["messages"][-1]["content"]
                said = Replied(answers(user, body.get("seed", 8) - 8))
                self.reply(200, completion(body["model"], said, user))

        server.RequestHandlerClass = Model
        for way in ([], ["--batch"]):
            folder = tmp_path / f"of{way}"
            folder.mkdir()
            config, store = files(folder, server.url)
            told = yaml.safe_load(Path(config).read_text())
            told |= {"sampling": {"seed": 7, "max_tokens": 9000}, "batch": {"poll": 0.05}}
            told |= {"prices": {"input": 1.0, "output": 1.0}}
            Path(config).write_text(yaml.safe_dump(told if way else told | {"batch": None}))
            done = curate("sample", config, *store, *way)
            assert done.exit_code == 0, done.output
            assert curate("export", str(folder / "out"), *store, "--no-plots").exit_code == 0
            (data,) = (folder / "out" / "data").iterdir()
            rows[bool(way)] = [(one["id"], one["text"]) for one in pq.read_table(data).to_pylist()]
            spent[bool(way)] = sum(one["cost"] for one in pq.read_table(data).to_pylist())
    assert len(server.desk.batches) == 3, "an answer of each question a batch"
    assert rows[True] == rows[False] and len(rows[True]) == 5
    assert spent[True] == pytest.approx(spent[False] / 2)


def test_all_right_answers_become_rows(tmp_path: Path) -> None:
    with model(answers) as (url, _):
        config, store = files(tmp_path, url, choose="all")
        text = yaml.safe_load(Path(config).read_text()) | {"gates": {"require_block": False}}
        Path(config).write_text(yaml.safe_dump(text))
        assert curate("sample", config, *store).exit_code == 0
    assert curate("export", str(tmp_path / "out"), *store, "--no-plots").exit_code == 0
    (data,) = (tmp_path / "out" / "data").iterdir()
    rows = pq.read_table(data).to_pylist()
    assert len(rows) == 10
    assert len({row["id"] for row in rows}) == 10
    assert sum(row["blocks"] > 0 for row in rows) == 5


def test_a_command_that_is_refused_tells_no_tally(tmp_path: Path) -> None:
    with model(answers) as (url, _):
        config, store = files(tmp_path, url)
        assert "18 answers" in curate("sample", config, *store).output
    (tmp_path / "empty.json").write_text("[]")
    refused = curate("sample", config, *store, "--file", str(tmp_path / "empty.json"))
    assert refused.exit_code == 2
    assert "it is empty" in refused.output and "18 answers" not in refused.output


def test_commands_that_belong_to_the_other_kind_say_so(tmp_path: Path) -> None:
    config, store = files(tmp_path, "http://127.0.0.1:9/v1")
    found = curate("run", config, *store)
    assert found.exit_code == 2
    assert "multiverse curate sample" in found.output
    bad = curate("sample", config, *store, "--choose", "longest")
    assert bad.exit_code == 2
    assert "sample.choose" in bad.output
