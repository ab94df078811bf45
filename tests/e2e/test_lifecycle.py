"""Pause, update, flush, continue, with trees alive in every state: no KV of old weights is read."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.layout import layout
from sglang_multiverse.server import ServerError, free_port
from sglang_multiverse.structure import parse
from sglang_multiverse.tiny import MODEL_DIR

from .client import Client
from .conftest import _trainer_model
from .script import read_rows, starts
from .test_fidelity import TOLERANCE, logprobs
from .texts import Texts

pytestmark = pytest.mark.weights("random")


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the same shape as those served, and nothing else in common."""
    folder = tmp_path_factory.mktemp("weights") / "other"
    shutil.copytree(MODEL_DIR, folder)
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(MODEL_DIR)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def other_model(other_weights: Path) -> Any:
    return _trainer_model(other_weights)


def from_disk(client: Client, folder: Path) -> None:
    body = {"model_path": str(folder), "flush_cache": True, "weight_version": "other"}
    assert client.server.request("/update_weights_from_disk", body)["success"]


def from_tensors(client: Client, folder: Path) -> None:
    from sglang.srt.utils import MultiprocessingSerializer

    # By name: a descriptor would need the server's key to be fetched.
    torch.multiprocessing.set_sharing_strategy("file_system")
    tensors = list(_trainer_model(folder).state_dict().items())
    data = base64.b64encode(MultiprocessingSerializer.serialize(tensors)).decode()
    in_session(
        client, "/update_weights_from_tensor", {"serialized_named_tensors": [data]}, lambda: None
    )


def from_group(client: Client, folder: Path) -> None:
    from sglang.srt.utils import init_custom_process_group

    state = _trainer_model(folder).state_dict()
    name, port = f"update-{time.monotonic_ns()}", free_port()
    address = {"master_address": "127.0.0.1", "master_port": port, "group_name": name}
    join = {**address, "rank_offset": 1, "world_size": 2, "backend": "gloo"}
    joined = threading.Thread(
        target=client.server.request, args=("/init_weights_update_group", join), daemon=True
    )
    joined.start()
    group = init_custom_process_group(
        backend="gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        timeout=timedelta(seconds=120),
        world_size=2,
        rank=0,
        group_name=name,
    )
    joined.join()

    def send() -> None:
        for tensor in state.values():
            torch.distributed.broadcast(tensor.contiguous(), src=0, group=group)

    body = {
        "names": list(state),
        "dtypes": ["float32"] * len(state),
        "shapes": [list(tensor.shape) for tensor in state.values()],
        "group_name": name,
    }
    in_session(client, "/update_weights_from_distributed", body, send)
    client.server.request("/destroy_weights_update_group", {"group_name": name})


def in_session(
    client: Client, path: str, body: dict[str, Any], meanwhile: Callable[[], None]
) -> None:
    server = client.server
    assert server.request("/begin_weight_update", {})["success"]
    sender = threading.Thread(target=meanwhile)
    sender.start()
    done = server.request(path, {**body, "flush_cache": True, "weight_version": "other"})
    sender.join()
    assert done["success"], done
    assert server.request("/end_weight_update", {})["success"]


class Crowd:
    """Scripted requests under way, and the logits their rows sampled from."""

    def __init__(self, client: Client, texts: Texts, folder: Path, seeds: range):
        self.client, self.texts, self.folder = client, texts, folder
        self.seeds = seeds
        self.answers: dict[int, Any] = {}
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in seeds]
        for thread in self._threads:
            thread.start()

    def _ask(self, seed: int) -> None:
        script, prompt_len = self.texts.make(seed)
        custom = {"script": script, "eos": self.texts.eos, "record": str(self.folder / str(seed))}
        try:
            self.answers[seed] = self.client.force(script[:prompt_len], custom)
        except ServerError as error:
            self.answers[seed] = error

    def rows(self, seed: int) -> list[Any]:
        path = self.folder / str(seed)
        return read_rows(str(path)) if path.exists() else []

    def wait_for_rows(self, least: int) -> None:
        """Until all of the crowd run, and ``least`` rows have been computed for them.

        A request that comes while generation is paused is held until it goes on.
        """
        for _ in range(1200):
            rows = [len(self.rows(seed)) for seed in self.seeds]
            if all(rows) and sum(rows) >= least:
                return
            time.sleep(0.05)
        raise AssertionError("the crowd does not get going")

    def finish(self) -> None:
        deadline = time.monotonic() + 300
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        assert len(self.answers) == len(self.seeds)


def made_by(rows: list[Any], ids: list[int], dialect: Dialect, models: list[Any]) -> list[int]:
    """Which of ``models`` made each row's logits; fails on a row that none of them did."""
    laid, where = layout(ids, dialect), starts(parse(ids, dialect))
    expected = [logprobs(model, ids, laid) for model in models]
    found = []
    for key, own, _, logits in rows:
        row = torch.tensor(logits).log_softmax(-1)
        at = where[key] + own - 1
        gaps = [float((row - one[at]).abs().max()) for one in expected]
        best = min(range(len(gaps)), key=gaps.__getitem__)
        assert gaps[best] <= TOLERANCE, (key, own, gaps)
        found.append(best)
    return found


@pytest.mark.parametrize("update", [from_disk, from_tensors, from_group])
def test_retracted_trees_go_on_with_the_new_weights_alone(
    server: Client,
    texts: Texts,
    dialect: Dialect,
    random_weights: Path,
    random_model: Any,
    other_weights: Path,
    other_model: Any,
    tmp_path: Path,
    update: Callable[[Client, Path], None],
) -> None:
    """After the update every row's logits are those of the new weights on the whole text: nothing
    of it was read from KV of the old ones. The prefix cache holds none either."""
    server.forget()
    probe = texts.words[:60]
    server.generate(probe, max_new_tokens=2)
    crowd = Crowd(server, texts, tmp_path, range(300, 312))
    crowd.wait_for_rows(150)
    with server.paused("retract"):
        update(server, other_weights)
        server.server.request("/flush_cache", {}, raw=True)
    crowd.finish()
    answer = server.generate(probe, max_new_tokens=1, return_logprob=True, logprob_start_len=0)
    values = answer["meta_info"]["input_token_logprobs"]
    expected = logprobs(other_model, probe, layout(probe, dialect))
    assert max(abs(v[0] - float(expected[i, v[1]])) for i, v in enumerate(values[1:])) <= TOLERANCE
    crossed = 0
    for seed, answer in crowd.answers.items():
        script, prompt_len = texts.make(seed)
        assert answer["output_ids"] == [*script[prompt_len:], texts.eos]
        rows = crowd.rows(seed)
        models = made_by(rows, [*script, texts.eos], dialect, [random_model, other_model])
        assert models == sorted(models)  # of the old weights until the pause took hold, then never
        crossed += len(set(models)) == 2
    assert crossed >= 3
    server._weights = None
    server.use(random_weights)
    server.assert_sound()


def test_paused_in_place_everything_waits_and_goes_on(
    server: Client, texts: Texts, tmp_path: Path
) -> None:
    crowd = Crowd(server, texts, tmp_path, range(320, 330))
    for least in (80, 160, 240):
        crowd.wait_for_rows(least)
        with server.paused("in_place"):
            time.sleep(0.4)
            held = sum(len(crowd.rows(seed)) for seed in crowd.seeds)
            time.sleep(0.4)
            assert sum(len(crowd.rows(seed)) for seed in crowd.seeds) == held
            with pytest.raises(ServerError, match="400"):
                server.server.request("/flush_cache", {}, raw=True)
    crowd.finish()
    for seed, answer in crowd.answers.items():
        script, prompt_len = texts.make(seed)
        assert answer["output_ids"] == [*script[prompt_len:], texts.eos]
    server.assert_sound()


def test_paused_by_abort_nothing_is_left(server: Client, texts: Texts, tmp_path: Path) -> None:
    crowd = Crowd(server, texts, tmp_path, range(340, 350))
    crowd.wait_for_rows(100)
    with server.paused("abort"):
        crowd.finish()
        server.forget()
    ends = [
        "abort" if isinstance(a, ServerError) else a["meta_info"]["finish_reason"]["type"]
        for a in crowd.answers.values()
    ]
    assert "abort" in ends
    server.assert_sound()


def test_pauses_at_every_moment_of_a_tree(
    every: Client, texts: Texts, dialect: Dialect, random_model: Any, tmp_path: Path
) -> None:
    """One request, retracted after every few rows: while it writes its goal, at the fork, with some
    paths closed, at the join, after it."""
    script, prompt_len = texts.make(11)
    whole = [*script, texts.eos]
    folder = tmp_path / "rows"
    folder.mkdir()
    crowd = Crowd(every, texts, folder, range(11, 12))
    for least in itertools.count(4, 9):
        while len(crowd.rows(11)) < least and not crowd.answers:
            time.sleep(0.01)
        if crowd.answers:
            break
        with every.paused("retract"):
            every.server.request("/flush_cache", {}, raw=True)
    crowd.finish()
    answer = crowd.answers[11]
    assert answer["output_ids"] == whole[prompt_len:]
    assert answer["meta_info"]["num_retractions"] >= 5
    assert set(made_by(crowd.rows(11), whole, dialect, [random_model])) == {0}
    every.assert_sound()


def test_weights_of_another_layout_are_not_loaded(
    overlap: Client, other_weights: Path, tmp_path: Path
) -> None:
    """Their config says how they were trained; the server goes on with those it has."""
    body = {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 4, "temperature": 0}}
    before = overlap.server.request("/generate", {**body, "return_logprob": True})
    shutil.copytree(other_weights, tmp_path / "sharing")
    config = tmp_path / "sharing" / "config.json"
    made = json.loads(config.read_text())
    made["multiverse"] = {**made.get("multiverse", {}), "share_every": 8}
    config.write_text(json.dumps(made))
    asked = {"model_path": str(config.parent), "flush_cache": True}
    with pytest.raises(ServerError, match=r"HTTP 400.*share_every=8"):
        overlap.server.request("/update_weights_from_disk", asked)
    after = overlap.server.request("/generate", {**body, "return_logprob": True})
    for old, new in zip(
        *(a["meta_info"]["output_token_logprobs"] for a in (before, after)), strict=True
    ):
        assert new[1] == old[1]
        assert new[0] == pytest.approx(old[0], abs=TOLERANCE)
    overlap.assert_sound()
