"""Wider than one process and one queue: ranks, replicas, a router, priorities, adapters."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.layout import layout
from sglang_multiverse.sequencer import UNLIMITED
from sglang_multiverse.server import Server, free_port
from sglang_multiverse.tiny import MODEL_DIR, task
from sglang_multiverse.training import enable_multiverse_attention

from .client import Client
from .conftest import CHECKS, FLAGS
from .script import read_rows
from .test_answers import differences, prompt_ids
from .test_fidelity import TOLERANCE, gap, write
from .texts import Texts

pytestmark = pytest.mark.weights("tiny")

#: A core for each scheduler; without it SGLang wants a NUMA node for each.
TWO_CORES = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}

#: A tokenizer worker that imports for longer is taken for dead and started anew, for ever.
PATIENT = {"SGLANG_UVICORN_WORKER_HEALTHCHECK_TIMEOUT": "600"}

#: Lets LoRA run without an accelerator; see the file in it.
UNPINNED = Path(__file__).parent / "unpinned"

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
    assert all(a["meta_info"]["multiverse_forks"] == 1 for a in answers)
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
    """Two data-parallel replicas behind two tokenizer workers, with priorities and mixed chunks."""

    @pytest.fixture(scope="class")
    @classmethod
    def replicas(cls) -> Iterator[Client]:
        yield from _client(
            MODEL_DIR,
            *("--dp", "2", "--tokenizer-worker-num", "2"),
            *("--enable-priority-scheduling", "--enable-mixed-chunk"),
            *("--chunked-prefill-size", "32", "--max-running-requests", "12"),
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

    def test_the_urgent_go_first_and_the_others_come_back(
        self, replicas: Client, prompts: list[list[int]], alone: list[Answer]
    ) -> None:
        """Low priorities take all rows; high ones take them over, and trees give way as wholes."""
        done: list[str] = []
        answers: dict[str, list[Any]] = {"low": [], "high": []}

        def ask_at(name: str, priority: int) -> None:
            def one(ids: list[int]) -> Any:
                answer = replicas.generate(ids, priority=priority)
                done.append(name)
                return answer

            answers[name] = replicas.at_once((lambda i=ids: one(i)) for ids in 2 * prompts)

        low = threading.Thread(target=ask_at, args=("low", 0))
        low.start()
        until(lambda: replicas.load("num_running_reqs") >= 4)
        ask_at("high", 1000)
        low.join()
        assert same(answers["low"], alone)
        assert same(answers["high"], alone)
        retracted = [a["meta_info"]["num_retractions"] for a in answers["low"]]
        print(f"\nretractions: low {retracted}")
        assert sum(retracted) >= 1
        assert not any(a["meta_info"]["num_retractions"] for a in answers["high"])
        places = {name: [i for i, n in enumerate(done) if n == name] for name in answers}
        assert sum(places["high"]) < sum(places["low"])

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


class TestTokenIdsAndAdapters:
    """No tokenizer in any process; paths keep their request's LoRA adapter."""

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
        """Two LoRA adapters that change the answers a little."""
        folder = tmp_path_factory.mktemp("adapters")
        return {name: make_adapter(folder / name, seed) for seed, name in enumerate("ab")}

    @pytest.fixture(scope="class")
    @classmethod
    def ids_only(cls, adapters: dict[str, Path]) -> Iterator[Client]:
        yield from _client(
            MODEL_DIR,
            "--skip-tokenizer-init",
            *("--enable-lora", "--lora-backend", "torch_native", "--max-loras-per-batch", "2"),
            *("--lora-paths", *(f"{name}={path}" for name, path in adapters.items())),
            PYTHONPATH=f"{UNPINNED}:{CHECKS['PYTHONPATH']}",
        )

    def test_ids_are_the_same(
        self, ids_only: Client, prompts: list[list[int]], alone: list[Answer]
    ) -> None:
        answers = ask(ids_only, prompts)
        assert [answer["output_ids"] for answer in answers] == 2 * [ids for ids, _ in alone]
        assert all("text" not in answer for answer in answers)

    def test_adapters(
        self,
        ids_only: Client,
        adapters: dict[str, Path],
        dialect: Dialect,
        prompts: list[list[int]],
    ) -> None:
        """Three kinds of request where a batch may name two adapters."""
        names = [None, *adapters]
        calls = [(name, ids) for ids in prompts for name in names]
        answers = ids_only.at_once(
            (lambda n=name, i=ids: ids_only.generate(i, lora_path=n, return_logprob=True))
            for name, ids in calls
        )
        base = answers[0]["meta_info"]["output_token_logprobs"][0][0]
        for name in names:
            mine = [(c[1], a) for c, a in zip(calls, answers, strict=True) if c[0] == name]
            first = mine[0][1]["meta_info"]["output_token_logprobs"][0][0]
            assert (abs(first - base) > 1e-4) == (name is not None)
            gaps, forks = differences(merged(name and adapters[name]), dialect, mine)
            worst = float(gaps.abs().max())
            print(f"\nadapter {name}: {forks} forks, max |Δ logprob| {worst:.2e}")
            assert forks >= 3
            assert worst <= TOLERANCE

    def test_abort(self, ids_only: Client, texts: Texts) -> None:
        abort_in_flight(ids_only, texts)


def make_adapter(folder: Path, seed: int) -> Path:
    """A random LoRA adapter of the tiny model."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    config = LoraConfig(
        r=4, lora_alpha=4, target_modules=["q_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, config)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    adapted.save_pretrained(folder)
    return folder


def merged(adapter: Path | None) -> Any:
    """The tiny model with an adapter, as the trainer runs it."""
    model = AutoModelForCausalLM.from_pretrained(
        MODEL_DIR, dtype=torch.float32, attn_implementation="sdpa"
    )
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return enable_multiverse_attention(model.eval())


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

    def _wait(self) -> None:
        """Until it has registered its workers, too: it answers for itself before that."""
        super()._wait()
        until(lambda: self.request("/workers", raw=True).count('"is_healthy":true') == self.workers)
