"""What is refused, with which words and how soon, before anything heavy is imported."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sglang_multiverse.cli import preflight, serve
from sglang_multiverse.tiny import MODEL_DIR

Result = subprocess.CompletedProcess[str]
HEAVY = ("torch", "transformers", "sglang", "datasets", "openai", "trl", "pandas", "sklearn")


def multiverse(*words: str, **env: str) -> tuple[Result, float]:
    """What the command did, and its seconds."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "sglang_multiverse.cli", *words],
        env={**os.environ, "COLUMNS": "100", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, time.perf_counter() - begun


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(MODEL_DIR, folder)
    return folder


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def strip_tags(folder: Path, *tags: str) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = folder / name
        text = file.read_text()
        for tag in tags:
            text = text.replace(tag, tag.replace("<", "<_"))
        file.write_text(text)


@pytest.mark.parametrize("command", ["serve --model-path", "demo --model"])
def test_a_path_that_does_not_exist_is_refused_at_once(command: str) -> None:
    done, seconds = multiverse(*command.split(), "./runs/nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no checkpoint at ./runs/nope" in done.stderr
    assert seconds < 2


@pytest.mark.parametrize("command", ["serve --model-path", "demo --model"])
def test_missing_tags_are_named_with_the_remedy(command: str, model: Path) -> None:
    strip_tags(model, "<Goal>", "</Path>")
    done, seconds = multiverse(*command.split(), str(model))
    assert done.returncode == 2
    assert "lacks tags of the dialect multiverse: <Goal> </Path>" in done.stderr
    assert f"`multiverse prepare-model {model} --out DIR`" in done.stderr
    assert seconds < 2


def test_a_used_port_is_refused_with_a_free_one(taken: int) -> None:
    done, seconds = multiverse("serve", "--port", str(taken))
    assert done.returncode == 2
    assert f"port {taken} of 127.0.0.1 cannot be had" in done.stderr
    assert "--port" in done.stderr.splitlines()[1]
    assert seconds < 2


@pytest.mark.parametrize("port", ["abc", "0", "70000"])
def test_what_is_no_port_is_refused(port: str) -> None:
    assert [problem.what for problem in preflight.port("127.0.0.1", port)] == [
        f"--port {port} is no port"
    ]


def test_a_free_port_and_the_shipped_model_pass() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number = str(sock.getsockname()[1])
    assert list(preflight.port("127.0.0.1", number)) == []
    assert list(preflight.checkpoint(str(MODEL_DIR))) == []


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def half_a_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"added_tokens": [1]}')


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (without_config, "holds no config.json"),
        (half_a_config, "is not a JSON object"),
        (list_config, "it holds list"),
        (without_weights, "holds no weights"),
        (without_tokenizer, "holds no tokenizer"),
        (broken_tokenizer, "is no tokenizer"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    harm: Callable[[Path], None], told: str, model: Path
) -> None:
    harm(model)
    (problem,) = preflight.checkpoint(str(model))
    assert told in problem.what
    assert str(model) in problem.what
    assert problem.remedy


@pytest.mark.parametrize("name", ["Multiverse4FM/Multiverse-32B", "gpt2", "s3://bucket/model"])
def test_names_of_the_hub_and_addresses_pass(name: str) -> None:
    assert list(preflight.checkpoint(name)) == []


def test_a_mistyped_path_that_reads_like_a_name_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    (problem,) = preflight.checkpoint("runs/mine")
    assert "no checkpoint at runs/mine" in problem.what


def test_the_tokenizer_may_be_elsewhere(model: Path) -> None:
    without_tokenizer(model)
    assert list(preflight.checkpoint(str(model), str(MODEL_DIR))) == []


def test_every_problem_is_told_not_only_the_first(taken: int) -> None:
    done, _ = multiverse("serve", "--model-path", "/nope", f"--port={taken}")
    assert done.stderr.count("error:") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no file")
def test_a_home_that_cannot_be_written_to_is_named() -> None:
    done, _ = multiverse("serve", "--port", "29871", HOME="/proc", XDG_CACHE_HOME="", HF_HOME="")
    assert done.returncode == 2
    assert "the home folder /proc cannot be written to" in done.stderr
    assert "set HOME to a folder" in done.stderr


@pytest.mark.parametrize(
    ("system", "machine", "library", "told"),
    [
        ("Darwin", "arm64", "glibc 2.36", "this is Darwin"),
        ("Linux", "riscv64", "glibc 2.36", "this is a riscv64"),
        ("Linux", "x86_64", "glibc 2.31", "the C library is glibc 2.31"),
        ("Linux", "x86_64", None, "the C library is unknown"),
    ],
)
def test_a_machine_that_sglang_is_not_built_for_is_refused(
    system: str, machine: str, library: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("os.confstr", lambda name: library)
    (problem,) = preflight.operating_system()
    assert told in problem.what
    assert problem.remedy


@pytest.mark.parametrize("question", ["", "  \n", "x" * 3000])
def test_a_question_that_cannot_be_answered_is_refused_before_anything_loads(question: str) -> None:
    done, seconds = multiverse("demo", "--question", question)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --question")
    assert seconds < 2


def test_demo_says_that_no_server_answers() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    done, seconds = multiverse("demo", "--url", url)
    assert done.returncode == 1
    assert f"is a server running at {url}?" in done.stderr.replace("\n", " ").replace("  ", " ")
    assert seconds < 2


@pytest.mark.parametrize(
    "words",
    [
        ("sft", "--config", "tiny", "--dataset_name", "./nope.jsonl"),
        ("sft", "--dataset_name=nope.parquet"),
        ("curate", "run", "s1k", "--file", "nope.jsonl"),
        ("analyse", "parallelism", "nope.jsonl"),
        ("analyse", "probing", "nope.jsonl", "--model", str(MODEL_DIR)),
        ("inspect", "nope.jsonl"),
    ],
)
def test_a_mistyped_dataset_is_told_at_once(words: tuple[str, ...]) -> None:
    done, seconds = multiverse(*words)
    assert done.returncode == 2, done.stderr
    assert "nope" in done.stderr
    assert seconds < 2


BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        return None
from importlib import util
real = util.find_spec
util.find_spec = lambda name, package=None: None if name in {blocked!r} else real(name, package)
sys.argv = ["multiverse", *{words!r}]
from sglang_multiverse.cli import app
app()
"""


@pytest.mark.parametrize(
    ("words", "blocked", "extra"),
    [
        (["serve"], ["sglang"], "serve"),
        (["demo"], ["sglang"], "serve"),
        (["bench", "steps"], ["sglang"], "serve"),
        (["fuzz"], ["sglang"], "serve"),
        (["soak"], ["sglang"], "serve"),
        (["sft", "--config", "tiny"], ["trl"], "train"),
        (["prepare-model", "x", "--out", "y"], ["transformers"], "train"),
        (["merge-adapter", "x", "--out", "y"], ["peft"], "train"),
        (["curate", "run", "s1k"], ["openai"], "data"),
        (["analyse", "probing", "x", "--model", "y"], ["torch"], "train"),
    ],
)
def test_every_command_names_the_extra_it_lacks_in_the_same_words(
    words: list[str], blocked: list[str], extra: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked, words=words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"error: this needs {blocked[0]}: pip install 'sglang-multiverse[{extra}]'\n"
    )


@pytest.mark.parametrize("words", [["--help"], ["inspect", "-"], ["demo", "--question", ""]])
def test_light_commands_import_nothing_heavy(words: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['multiverse', *{words!r}]\n"
        "from sglang_multiverse.cli import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="<Think>\nx\n</Think>\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "heavy: []" in done.stderr


def test_the_request_that_serve_prints_fits_the_context() -> None:
    line = serve.example("http://127.0.0.1:1", str(MODEL_DIR))
    body = json.loads(line.split(" -d ")[1].strip("'"))
    assert body["max_tokens"] + len(body["messages"][0]["content"]) < 2048


def test_the_last_of_a_flag_given_twice_counts() -> None:
    assert serve._value(["--port", "1", "--port=2", "--portly", "3"], "--port", "0") == "2"


@pytest.mark.e2e
def test_doctor_names_its_checks_and_exits_with_1_on_a_failure() -> None:
    pytest.importorskip("sglang")
    done, _ = multiverse("doctor", "--json", "--model-path", "/nope")
    findings = {one["check"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 1
    assert {"python", "machine", "folders", "sglang", "plugin", "hooks", "device"} <= set(findings)
    assert all(one["remedy"] for one in findings.values() if one["ok"] is False)
    assert "no checkpoint at /nope" in findings["model"]["detail"]
