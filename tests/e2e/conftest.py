"""Real SGLang servers on the tiny model, one of each kind per test session, memory checks on."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sglang_multiverse.dialect import Dialect
from sglang_multiverse.server import Server
from sglang_multiverse.stress import settings
from sglang_multiverse.tiny import MODEL_DIR
from sglang_multiverse.training import enable_multiverse_attention

from .client import Client
from .texts import Texts

pytest.importorskip("sglang", reason="the serve extra is not installed")

CHECKS = {
    **settings.CHECKS,
    # The custom logit processor is imported by name in the scheduler's process.
    "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
}
FLAGS = [*settings.FLAGS]
#: Set on a test that failed.
FAILED = pytest.StashKey[bool]()
#: Fixtures that are servers.
SERVERS = {"server", "overlap", "tight", "segmented", "every", "stock", "bare"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in Path(item.path).parts:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="session")
def dialect(tokenizer: Any) -> Dialect:
    return Dialect.from_tokenizer(tokenizer)


@pytest.fixture(scope="session")
def texts(tokenizer: Any, dialect: Dialect) -> Texts:
    return Texts(tokenizer, dialect)


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's shape with weights as initialised.

    Far from what it was trained on, trained weights amplify float32 rounding to 1e-4 in any two
    implementations; on these, 1e-5 tells right from wrong.
    """
    folder = tmp_path_factory.mktemp("weights") / "random"
    shutil.copytree(MODEL_DIR, folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(MODEL_DIR)).save_pretrained(folder)
    return folder


def _trainer_model(folder: Path) -> Any:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    return enable_multiverse_attention(model.eval())


@pytest.fixture(scope="session")
def trainer_model() -> Any:
    """The tiny model as the trainer runs it."""
    return _trainer_model(MODEL_DIR)


@pytest.fixture(scope="session")
def random_model(random_weights: Path) -> Any:
    """The random weights as the trainer runs them."""
    return _trainer_model(random_weights)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(autouse=True)
def weights(request: pytest.FixtureRequest) -> Iterator[None]:
    """Put the weights a module is marked with into the servers its tests use.

    A test that fails may leave a server paused, busy or dead: the next one gets it started anew, so
    that one failure is reported as one.
    """
    name = request.node.get_closest_marker("weights").args[0]
    folder = MODEL_DIR if name == "tiny" else request.getfixturevalue("random_weights")
    clients = [request.getfixturevalue(one) for one in SERVERS & set(request.fixturenames)]
    for client in clients:
        client.use(folder)
    yield
    if request.node.stash.get(FAILED, False):
        for client in clients:
            print(f"restarted after a failure; its last words:\n{client.server.last_words(40)}")
            client.restart()


def _serve(plugin: bool, *flags: str, **env: str) -> Iterator[Client]:
    env = {**CHECKS, **env}
    with Server(MODEL_DIR, flags=[*FLAGS, *flags], env=env, plugin=plugin) as server:
        client = Client(server)
        yield client
        client.assert_sound()


@pytest.fixture(scope="session")
def overlap() -> Iterator[Client]:
    """Overlap scheduling on, room for everything, forks as deep as they come."""
    yield from _serve(True, "--max-total-tokens", "20000", "--multiverse-max-depth", "none")


@pytest.fixture(scope="session")
def tight() -> Iterator[Client]:
    """Overlap scheduling off, and a pool that a dozen requests overfill."""
    yield from _serve(
        True,
        *("--max-total-tokens", "2200", "--schedule-conservativeness", "0.02"),
        "--disable-overlap-schedule",
    )


@pytest.fixture(scope="session")
def segmented() -> Iterator[Client]:
    """Our own attention backend, prompts cut into chunks at any place."""
    yield from _serve(
        True,
        *("--attention-backend", "multiverse", "--multiverse-max-depth", "none"),
        *("--max-total-tokens", "3000", "--chunked-prefill-size", "37"),
    )


@pytest.fixture(scope="session")
def stock() -> Iterator[Client]:
    """The package installed, the plugin not asked for."""
    yield from _serve(False, "--max-total-tokens", "20000")


@pytest.fixture(scope="session")
def bare() -> Iterator[Client]:
    """SGLang told to load no plugin of that name: as if the package were not installed."""
    yield from _serve(False, "--max-total-tokens", "20000", SGLANG_PLUGINS="none")


@pytest.fixture(scope="session", params=["overlap", "tight"])
def server(request: pytest.FixtureRequest) -> Client:
    """Each of the two servers with the plugin."""
    client: Client = request.getfixturevalue(request.param)
    return client


@pytest.fixture(scope="session", params=["overlap", "tight", "segmented"])
def every(request: pytest.FixtureRequest) -> Client:
    """Those two, and the one with our attention backend."""
    client: Client = request.getfixturevalue(request.param)
    return client
