"""Wider than one process and one queue: ranks, replicas, a router, token ids."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.layout import layout
from sglang_multiverse.sequencer import UNLIMITED
from sglang_multiverse.server import Server, free_port
from sglang_multiverse.tiny import MODEL_DIR, task

from .client import Client
from .conftest import CHECKS, FLAGS
from .script import read_rows
from .test_answers import differences, prompt_ids
from .test_fidelity import TOLERANCE, gap, write
from .texts import Texts

pytestmark = [pytest.mark.weights("tiny"), pytest.mark.nightly]

#: A core for each scheduler; without it SGLang wants a NUMA node for each.
TWO_CORES = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}

#: A tokenizer worker that imports for longer is taken for dead and started anew, for ever.
PATIENT = {"SGLANG_UVICORN_WORKER_HEALTHCHECK_TIMEOUT": "600"}

Answer = tuple[list[int], str]


def _client(model: Path, *flags: str, **env: str) -> Iterator[Client]:
    flags = (*FLAGS, "--max-total-tokens", "6000", *flags)
    with Server(model, flags=flags, env={**CHECKS, **env}) as server:
        client = Client(server)
        yield client
        client.assert_sound()


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    problems = itertools.islice(task.generate(77, "test"), 6)
    return [prompt_ids(tokenizer, problem) for problem in problems]


@pytest.fixture(scope="module")
def alone(overlap: Client, prompts: list[list[int]]) -> list[Answer]:
    """What an ordinary server answers, one request at a time."""
    overlap.use(MODEL_DIR)
    answers = [overlap.generate(ids) for ids in prompts]
    assert sum(answer["meta_info"]["multiverse_forks"] for answer in answers) >= 4
    return [(answer["output_ids"], answer["text"]) for answer in answers]


def ask(
    client: Client, prompts: list[list[int]], times: int = 2, **body: Any
) -> list[dict[str, Any]]:
    return client.at_once((lambda i=ids: client.generate(i, **body)) for ids in times * prompts)


def same(answers: list[dict[str, Any]], alone: list[Answer]) -> bool:
    """Whether every answer has the ids and the text of an ordinary server."""
    found = [(answer["output_ids"], answer["text"]) for answer in answers]
    return found == len(found) // len(alone) * alone


def abort_in_flight(client: Client, texts: Texts) -> None:
    """Abort everything while paths decode that would never close."""
    script, prompt_len = texts.make(3, depth=1)
    script = script[: script.index(texts.dialect[Tag.END_PATH])]
    forever = {"script": script, "eos": texts.words[0]}
    answers: list[Any] = []

    def hang() -> None:
        calls = 4 * [lambda: client.force(script[:prompt_len], forever, max_new_tokens=1000)]
        answers.extend(client.at_once(calls))

    thread = threading.Thread(target=hang)
    thread.start()
    until(lambda: client.load("num_used_tokens") >= 6 * len(script))  # each is long past its fork
    client.server.request("/abort_request", {"abort_all": True}, raw=True)
    thread.join(60)
    assert [a["meta_info"]["finish_reason"]["type"] for a in answers] == 4 * ["abort"]
    assert sum(a["meta_info"]["multiverse_forks"] for a in answers) >= 2
    assert client.used_tokens() == 0


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


class TestTensorParallel:
    """Two ranks: each runs the scheduler and decides the same."""

    @pytest.fixture(scope="class")
    @classmethod
    def ranks(cls, random_weights: Path) -> Iterator[Client]:
        yield from _client(random_weights, "--tp", "2", **TWO_CORES)

    def test_logits_are_the_trainers(
        self, ranks: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path
    ) -> None:
        seeds = range(10)
        written = [write(ranks, texts, seed, tmp_path / str(seed)) for seed in seeds[:3]]
        written += ranks.at_once(
            (lambda s=seed: write(ranks, texts, s, tmp_path / str(s))) for seed in seeds[3:]
        )
        worst, rows = 0.0, 0
        for seed, ids in zip(seeds, written, strict=True):
            record = tmp_path / str(seed)
            laid = layout(ids, dialect)
            difference, count = gap(random_model, ids, laid, dialect, record, UNLIMITED)
            worst, rows = max(worst, difference), rows + count
            sampled = [(key, own, token) for key, own, token, _ in read_rows(str(record))]
            assert all(sampled.count(row) % 2 == 0 for row in sampled)  # once on each rank
        print(f"\ntensor parallel: {rows} rows, max |Δ logprob| {worst:.2e}")
        assert rows > 1000
        assert worst <= TOLERANCE

    def test_answers_are_those_of_one_rank(
        self,
        ranks: Client,
        tokenizer: Any,
        dialect: Dialect,
        trainer_model: Any,
        prompts: list[list[int]],
        alone: list[Answer],
    ) -> None:
        ranks.use(MODEL_DIR)
        answers = ask(ranks, prompts, return_logprob=True)
        assert same(answers, alone)
        asked = list(zip(2 * prompts, answers, strict=True))
        gaps, forks = differences(trainer_model, dialect, asked)
        worst = float(gaps.abs().max())
        print(f"\ntensor parallel: {forks} forks, {len(gaps)} tokens, max |Δ logprob| {worst:.2e}")
        assert worst <= TOLERANCE

    def test_abort(self, ranks: Client, texts: Texts) -> None:
        abort_in_flight(ranks, texts)


class TestReplicas:
    """Two data-parallel replicas behind two tokenizer workers, with mixed chunks."""

    @pytest.fixture(scope="class")
    @classmethod
    def replicas(cls) -> Iterator[Client]:
        yield from _client(
            MODEL_DIR,
            *("--dp", "2", "--tokenizer-worker-num", "2"),
            *("--enable-mixed-chunk", "--chunked-prefill-size", "32"),
            **TWO_CORES,
            **PATIENT,
        )

    def test_answers_are_those_of_one(
        self, replicas: Client, prompts: list[list[int]], alone: list[Answer]
    ) -> None:
        answers = ask(replicas, prompts)
        assert same(answers, alone)
        forks = sum(answer["meta_info"]["multiverse_forks"] for answer in answers)
        assert forks >= 8
        for replica in ("DP0", "DP1"):
            assert any(
                f" {replica}] Decode batch" in line for line in replicas.server.log().splitlines()
            )

    def test_mixed_chunks(
        self, replicas: Client, prompts: list[list[int]], alone: list[Answer]
    ) -> None:
        """Prompts longer than a chunk are prefilled in batches that decode paths too."""
        assert max(map(len, prompts)) > 32
        assert same(ask(replicas, prompts, times=3), alone)

    def test_abort(self, replicas: Client, texts: Texts) -> None:
        abort_in_flight(replicas, texts)

    def test_a_router_spreads_requests_over_workers(
        self, replicas: Client, overlap: Client, prompts: list[list[int]], alone: list[Answer]
    ) -> None:
        pytest.importorskip("sglang_router", reason="sglang-router is not installed")
        workers = [replicas, overlap]
        before = [served(worker) for worker in workers]
        with Router([worker.server.url for worker in workers]) as router:
            client = Client(router)
            assert same(ask(client, prompts), alone)
            events = client.stream(prompts[0])
            assert events[-1]["output_ids"] == alone[0][0]
        assert all(served(w) - b >= 4 for w, b in zip(workers, before, strict=True))


class TestTokenIds:
    """No tokenizer in any process."""

    @pytest.fixture(scope="class")
    @classmethod
    def ids_only(cls) -> Iterator[Client]:
        yield from _client(MODEL_DIR, "--skip-tokenizer-init")

    def test_ids_are_the_same(
        self, ids_only: Client, prompts: list[list[int]], alone: list[Answer]
    ) -> None:
        answers = ask(ids_only, prompts)
        assert [answer["output_ids"] for answer in answers] == 2 * [ids for ids, _ in alone]
        assert all("text" not in answer for answer in answers)

    def test_abort(self, ids_only: Client, texts: Texts) -> None:
        abort_in_flight(ids_only, texts)


def served(client: Client) -> int:
    """Generation requests a server has answered."""
    return client.server.log().count('"POST /generate HTTP/1.1" 200')


class Router(Server):
    """SGLang's router, round robin, in front of running servers."""

    def __init__(self, urls: list[str]):
        super().__init__(MODEL_DIR, plugin=False, timeout=120)
        self.command = [
            *(sys.executable, "-m", "sglang_router.launch_router"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--policy", "round_robin"),
            *("--prometheus-port", str(free_port()), "--worker-urls", *urls),
        ]
        self.workers = len(urls)

    def answers(self) -> bool:
        """Whether it has registered its workers, too: it answers for itself before that."""
        if not super().answers():
            return False
        return self.request("/workers", raw=True).count('"is_healthy":true') == self.workers
