"""To the hub: what goes, what must be there first, and what is said when it cannot."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from typer.testing import CliRunner

from sglang_multiverse.cli import app
from sglang_multiverse.data_pipeline.corpus.export import export_dataset
from sglang_multiverse.data_pipeline.corpus.pushing import PushError, prepare, push
from sglang_multiverse.data_pipeline.store.store import Store

from .synthetic import fill_store


def dataset(folder: Path, licence: str = "license: apache-2.0\n") -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "report").mkdir()
    parquet.write_table(pa.table({"a": [1]}), folder / "data" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(f"---\npretty_name: x\n{licence}---\n# x\n")
    (folder / "report" / "report.md").write_text("r")
    (folder / "secret.env").write_text("HF_TOKEN=1")
    return folder


class Hub:
    """Notes what is asked of it; fails where told to."""

    def __init__(self, failing: str = ""):
        self.failing = failing
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo: str, **given: Any) -> None:
        self._note("create_repo", {"repo": repo, **given})

    def upload_folder(self, **given: Any) -> Any:
        self._note("upload_folder", given)
        return SimpleNamespace(commit_url="https://hub/commit/1")

    def _note(self, name: str, given: dict[str, Any]) -> None:
        self.asked.append((name, given))
        if name == self.failing:
            raise HfHubHTTPError("403 Forbidden:\nnot yours", response=SimpleNamespace(
                headers={}, status_code=403, request=None))  # fmt: skip


def test_it_goes_to_a_private_repository_without_what_is_none_of_its_business(
    tmp_path: Path,
) -> None:
    hub = Hub()
    assert push(dataset(tmp_path / "d"), "me/x", api=hub) == "https://hub/commit/1"
    (made, how), (sent, what) = hub.asked
    assert (made, how["repo"], how["private"], how["repo_type"]) == (
        *("create_repo", "me/x", True),
        "dataset",
    )
    assert sent == "upload_folder"
    assert what["repo_id"] == "me/x"
    assert what["allow_patterns"] == list(prepare(tmp_path / "d").files)
    assert push(tmp_path / "d", "me/x", public=True, api=hub)
    assert hub.asked[2][1]["private"] is False


def test_what_would_go_is_what_the_export_wrote(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d")
    for stray in ("data/notes.txt", "data/train.parquet", "report/old.md", "figures/mine.png"):
        (folder / stray).parent.mkdir(exist_ok=True)
        (folder / stray).write_text("mine")
    upload = prepare(folder)
    assert sorted(upload.files) == [
        "README.md",
        "data/train-00000-of-00001.parquet",
        "report/report.md",
    ]
    assert upload.size == sum((tmp_path / "d" / name).stat().st_size for name in upload.files)


def test_a_card_without_a_license_does_not_leave(tmp_path: Path) -> None:
    hub = Hub()
    with pytest.raises(PushError, match="names no license"):
        push(dataset(tmp_path / "d", licence=""), "me/x", api=hub)
    assert hub.asked == []


def test_all_that_an_export_writes_goes(tmp_path: Path) -> None:
    fill_store(tmp_path / "s", 1)
    with Store(tmp_path / "s") as store:
        written = export_dataset(store, tmp_path / "d")
    card = tmp_path / "d" / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: mit\n", 1))
    assert sorted(prepare(tmp_path / "d").files) == sorted(
        str(path.relative_to(tmp_path / "d")) for path in written
    )


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (b"---\nlicense: [\n---\n", "front matter of .*README.md is no YAML: line "),
        (b"---\n- a\n---\n", "is no list of fields"),
        (b"\xff\xfe", "README.md is not UTF-8"),
        (b"# no front matter\n", "names no license"),
        (b"---\nlicense: 5\n---\n", "license 5 is none that the hub knows"),
        (b"---\nlicense: {a: 1}\n---\n", "is none that the hub knows"),
        (b"---\nlicense: Apache 2.0\n---\n", "'Apache 2.0' is none that the hub knows"),
    ],
)
def test_an_odd_card_is_one_line_before_anything_is_sent(
    tmp_path: Path, card: bytes, message: str
) -> None:
    folder = dataset(tmp_path / "d")
    (folder / "README.md").write_bytes(card)
    hub = Hub()
    with pytest.raises(PushError, match=message):
        push(folder, "me/x", api=hub)
    assert hub.asked == []
    dry = CliRunner().invoke(app, ["curate", "push", str(folder), "--repo-id", "me/x", "--dry-run"])
    assert dry.exit_code == 2 and dry.output.count("\n") == 1


@pytest.mark.parametrize("repo", ["a b/c/d", "a b/c", "me/x.git", "alone", "me/-x"])
def test_a_name_that_the_hub_cannot_have_is_refused_in_a_dry_run_too(
    tmp_path: Path, repo: str
) -> None:
    folder = str(dataset(tmp_path / "d"))
    dry = CliRunner().invoke(app, ["curate", "push", folder, "--repo-id", repo, "--dry-run"])
    assert dry.exit_code == 2 and repo in dry.output


def test_a_hub_that_cannot_be_reached_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    hub = HfApi(endpoint="http://127.0.0.1:9", token="hf_x")
    with pytest.raises(PushError, match=r"the hub at http://127\.0\.0\.1:9 cannot be reached: "):
        push(dataset(tmp_path / "d"), "me/x", api=hub)


def test_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(PushError, match="is no dataset"):
        prepare(tmp_path)


@pytest.mark.parametrize("failing", ["create_repo", "upload_folder"])
def test_what_the_hub_refuses_is_one_line(tmp_path: Path, failing: str) -> None:
    with pytest.raises(PushError, match="the hub refuses me/x: .*403") as error:  # noqa: RUF043
        push(dataset(tmp_path / "d"), "me/x", api=Hub(failing))
    assert "\n" not in str(error.value)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    folder = str(dataset(tmp_path / "d"))
    dry = CliRunner().invoke(app, ["curate", "push", folder, "--repo-id", "me/x", "--dry-run"])
    assert dry.exit_code == 0
    assert "3 files, license apache-2.0, to me/x (private if it is new)" in dry.output
    real = CliRunner().invoke(app, ["curate", "push", folder, "--repo-id", "me/x"])
    assert real.exit_code == 2
    assert "hf auth login" in real.output
