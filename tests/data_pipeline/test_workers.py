"""Where the stages' work is done: processes do what threads do, and their death is an error."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_multiverse.data_pipeline.pipeline import drive
from sglang_multiverse.data_pipeline.recipe import Recipe, counter
from sglang_multiverse.data_pipeline.store.store import Outcome
from sglang_multiverse.data_pipeline.teacher.call import Call, Reply
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette
from sglang_multiverse.data_pipeline.teacher.prompt import Prompts
from sglang_multiverse.data_pipeline.teacher.task import Task
from sglang_multiverse.data_pipeline.workers import Processes, Threads, Workers

from .driving import FAILURES
from .replay import ReplayServer
from .test_pipeline import command

RECIPE = Recipe("teacher")


def caller(cassette: Cassette, wait: Callable[[Call], None] = lambda call: None) -> Callable:
    async def answer(call: Call) -> Reply:
        wait(call)
        task = Task.read(call.messages[-1].content)
        assert task is not None
        replied = cassette.replies[task.name][task.attempt - 1]
        failure = "refusal" if replied.refusal is not None else None
        failure = failure or FAILURES.get(replied.finish_reason)
        return Reply(replied.refusal or replied.text or "", failure)

    return answer


async def outcomes(workers: Workers, cassettes: list[Cassette]) -> list[Outcome]:
    try:
        work = (drive(one.record(), workers, caller(one)) for one in cassettes)
        return list(await asyncio.gather(*work))
    finally:
        await workers.close()


def test_processes_do_what_threads_do(light: list[Cassette]) -> None:
    here = asyncio.run(outcomes(Threads(RECIPE), light))
    there = asyncio.run(outcomes(Processes(RECIPE, 2), light))
    assert there == here
    assert {outcome.status for outcome in here} == {"accepted", "rejected"}
    assert all(outcome.keys for outcome in here)


def test_an_error_in_a_process_is_told_with_its_traceback(light: list[Cassette]) -> None:
    recipe = replace(RECIPE, prompts=Prompts({}))
    found = asyncio.run(outcomes(Processes(recipe, 1), light[:2]))
    for outcome in found:
        assert (outcome.status, outcome.code, outcome.keys) == ("error", "PromptError", ())
        assert outcome.result is not None
        assert "no prompt" in outcome.result["message"]
        assert "outlining.py" in outcome.result["traceback"]


def test_the_items_of_a_process_that_dies_fail_and_others_go_on(light: list[Cassette]) -> None:
    clean = next(one for one in light if one.name == "clean")

    async def go() -> tuple[list[Outcome], Outcome]:
        workers = Processes(RECIPE, 1)
        killed: list[int] = []

        def kill(call: Call) -> None:
            process = workers._workers[0]._process
            assert process is not None
            if not killed:  # a second signal would look for the process, and so reap it
                killed.append(process.pid)
                os.kill(process.pid, signal.SIGKILL)

        try:
            both = [drive(clean.record(), workers, caller(clean, kill)) for _ in range(2)]
            dead = list(await asyncio.gather(*both))
            return dead, await drive(clean.record(), workers, caller(clean))
        finally:
            await workers.close()

    dead, then = asyncio.run(go())
    for outcome in dead:
        assert (outcome.status, outcome.code) == ("error", "WorkerDied")
        assert outcome.result is not None and "SIGKILL" in outcome.result["message"]
    assert then.status == "accepted"


def test_a_recipe_with_a_tokenizer_goes_to_another_process(repository: Path) -> None:
    count, name = counter(repository / "sglang_multiverse" / "tiny" / "model")
    recipe = pickle.loads(pickle.dumps(Recipe("teacher", count_tokens=count, tokenizer=name)))
    assert recipe.count_tokens("Two and two.") == count("Two and two.") > 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_run(
    light: list[Cassette], configure: Callable[..., Path], tmp_path: Path, number: signal.Signals
) -> None:
    """However it ends."""
    store = tmp_path / "store.sqlite"
    with ReplayServer(light, latency=0.3) as server:
        config = configure(server.url, items=light)
        process = subprocess.Popen(
            command(config, store, "--processes", "2"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        while len(server.requests) < 6 and process.poll() is None:
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 2
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal sends it: to all of them
        else:
            process.kill()
        _, err = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 1 and "goes on from here" in err, err
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
