"""The stages under Ray Data, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_multiverse.data_pipeline import config as configs
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette

from .conftest import calls, expected
from .replay import ReplayServer

ray = pytest.importorskip("ray", reason="needs the extra `ray`")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        configure_logging=False,
    )
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_rows_come_out_as_the_pipeline_makes_them(
    light: list[Cassette], configure: Callable[..., Path], tmp_path: Path
) -> None:
    from sglang_multiverse.data_pipeline.ray_adapter import curate_dataset

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [dict(cassette.record().columns) for cassette in light]
    rows.append({"question": "Nobody thought?", "solution": "7"})
    names = {cassette.question: cassette.name for cassette in light}
    with ReplayServer(light) as server:
        config = configs.load(str(configure(server.url, items=light)))

        def curated() -> list[dict[str, Any]]:
            dataset = ray.data.from_items(rows, override_num_blocks=2)
            return curate_dataset(dataset, config, tmp_path / "stores").take_all()

        found = curated()
        paid = len(server.paid())
        again = curated()
        assert len(server.paid()) == paid == calls(light), "a rerun makes no call"
    by_name = {names[row["question"]]: row for row in found if row["question"] in names}
    assert {name: row["curated_code"] for name, row in by_name.items()} == expected(light)
    for name, code in expected(light).items():
        assert by_name[name]["curated_status"] == ("rejected" if code else "accepted")
        assert ("<Parallel>" in by_name[name]["curated_text"]) == (not code)
    (odd,) = [row for row in found if row["question"] not in names]
    assert (odd["curated_status"], odd["curated_code"]) == ("skipped", "no-chain")
    key = "curated_text"
    assert sorted(row[key] for row in again) == sorted(row[key] for row in found)
