"""Every event of the observer, and what SGLang's own figures say with trees in them."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("sglang", reason="the serve extra is not installed")
os.environ.setdefault("SGLANG_PLATFORM", "torch_cpu")

from prometheus_client import CollectorRegistry
from sglang.srt.managers.load_snapshot import LoadSnapshot, QueueMetrics
from sglang.srt.managers.schedule_batch import FINISH_ABORT, FINISH_LENGTH, FINISH_MATCHED_TOKEN
from sglang.srt.observability.metrics_collector import QueueCount, SchedulerStats

from sglang_multiverse import __version__
from sglang_multiverse.dialect import Tag
from sglang_multiverse.engine.options import EngineOptions
from sglang_multiverse.engine.tree import Outcome, State, Tree
from sglang_multiverse.patches import active as armed
from sglang_multiverse.patches.reporting import report
from sglang_multiverse.patches.reporting.metrics import (
    KINDS,
    METRICS,
    PREFIX,
    Exporter,
    Observer,
    line,
    logger,
)
from sglang_multiverse.patches.rows.branch import Branch

from ..core.generate import DIALECT, WORD

LABELS = {"model_name": "tiny", "tp_rank": 0}
PROMPT = [WORD] * 5
STOP = FINISH_MATCHED_TOKEN(matched=1)


class Scraped:
    """An observer with a registry of its own."""

    def __init__(self, **options: Any) -> None:
        self.registry = CollectorRegistry()
        self.observer = Observer(Exporter(LABELS, registry=self.registry), **options)

    def __call__(self, name: str, **label: str) -> float | None:
        labels = {key: str(value) for key, value in {**LABELS, **label}.items()}
        return self.registry.get_sample_value(PREFIX + name, labels)


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


def a_branch(*, rid: str = "r1", tokens: int = 500, **options: Any) -> Branch:
    tree = Tree(PROMPT, DIALECT, EngineOptions(**options), tokens)
    req: Any = SimpleNamespace(rid=rid, retraction_count=0)
    branch = Branch(tree, tree.root, req=req)
    tree.root.handle = branch
    req.multiverse = branch
    return branch


def write(branch: Branch, *tokens: int | Tag) -> Outcome:
    outcome = Outcome.CONTINUE
    for token in tokens:
        outcome = branch.tree.accept(
            branch.node, DIALECT[token] if isinstance(token, Tag) else token
        )
    return outcome


def goal(outlines: int) -> list[int | Tag]:
    each: list[int | Tag] = [Tag.OUTLINE, WORD, Tag.END_OUTLINE]
    return [Tag.PARALLEL, Tag.GOAL, *(each * outlines), Tag.END_GOAL]


def fork(branch: Branch, outlines: int = 2) -> None:
    assert write(branch, *goal(outlines)) is Outcome.FORK
    for kid in branch.node.kids:
        kid.handle = Branch(branch.tree, kid)
        kid.state = State.RUNNING


def join(branch: Branch, *words: int) -> list[Any]:
    for kid in branch.node.kids:
        write(kid.handle, *words, Tag.END_PATH)
    branch.tree.emit()
    kids = branch.tree.join(branch.node)
    assert kids is not None
    branch.tree.emit()
    branch.node.state = State.RUNNING
    return kids


def test_every_counter_stands_at_zero_from_the_start(scraped: Scraped) -> None:
    for metric in METRICS:
        if metric.kind == "Histogram":
            assert scraped(f"{metric.name}_count") == 0
        for value in metric.values:
            assert scraped(metric.name, **{str(metric.label): value}) == 0
    assert scraped("forks_total") == 0


def test_names_follow_the_conventions() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"sglang:multiverse_[a-z_]+", PREFIX + metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "Counter")
        assert bool(metric.buckets) == (metric.kind == "Histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))


def test_forks_joins_and_paths(scraped: Scraped) -> None:
    branch = a_branch()
    for paths in (2, 3):
        fork(branch, paths)
        scraped.observer.forked(branch)
        scraped.observer.joined(join(branch, WORD))
    assert scraped("forks_total") == scraped("joins_total") == 2
    assert scraped("paths_per_fork_count") == 2
    assert scraped("paths_per_fork_sum") == 5
    assert scraped("paths_per_fork_bucket", le="2.0") == 1


def test_an_ended_forked_request_is_measured(scraped: Scraped) -> None:
    branch = a_branch()
    fork(branch)
    join(branch, *[WORD] * 7)
    write(branch, Tag.END_CONCLUSION, Tag.END_PARALLEL, WORD)
    scraped.observer.finished(branch, STOP)
    measured = branch.tree.parallelism()
    assert measured.critical_path_tokens < measured.tokens == branch.tree.total
    assert scraped("forked_requests_total", finish_reason="stop") == 1
    assert scraped("critical_path_tokens_sum") == measured.critical_path_tokens
    assert scraped("generated_tokens_total") == measured.tokens
    assert scraped("parallelism_sum") == pytest.approx(measured.degree)


def test_a_request_that_never_forked_is_not_measured(
    scraped: Scraped, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger.name)
    branch = a_branch()
    scraped.observer.admitted()
    write(branch, WORD, WORD)
    scraped.observer.finished(branch, STOP)
    assert scraped("eligible_requests_total") == 1
    assert scraped("parallelism_count") == 0
    assert scraped("forked_requests_total", finish_reason="stop") == 0
    assert caplog.records == []


@pytest.mark.parametrize(
    ("tokens", "options", "kind"),
    [
        (goal(3), {"max_branches": 2}, "too_many_branches"),
        (goal(2), {"max_depth": 0}, "too_deep"),
        (goal(1), {}, "single_outline"),
        (goal(0), {}, "no_outline"),
        ([Tag.PARALLEL, Tag.GOAL, Tag.PATH], {}, "broken_goal"),
        ([WORD, Tag.END_GOAL], {}, "stray_tag"),
    ],
)
def test_what_the_automaton_noted_is_counted_once_by_kind(
    scraped: Scraped, tokens: list[int | Tag], options: dict[str, int], kind: str
) -> None:
    branch = a_branch(**options)
    write(branch, *tokens)
    issues = [issue.code for issue in branch.node.sequencer.issues]
    assert kind in issues
    scraped.observer.finished(branch, STOP)
    for other in KINDS:
        assert scraped("malformed_total", kind=other) == issues.count(other)


def test_what_paths_noted_is_counted_at_the_join_and_not_again(scraped: Scraped) -> None:
    branch = a_branch()
    fork(branch)
    scraped.observer.joined(join(branch, DIALECT[Tag.END_GOAL]))
    assert scraped("malformed_total", kind="stray_tag") == 2
    scraped.observer.finished(branch, STOP)
    assert scraped("malformed_total", kind="stray_tag") == 2


def test_tags_of_the_prompt_are_not_the_models_doing(scraped: Scraped) -> None:
    prompt = [WORD, DIALECT[Tag.END_GOAL], WORD]
    tree = Tree(prompt, DIALECT, EngineOptions(), 50)
    branch = Branch(tree, tree.root, req=None)
    tree.accept(tree.root, DIALECT[Tag.END_GOAL])
    scraped.observer.finished(branch, STOP)
    assert scraped("malformed_total", kind="stray_tag") == 1


@pytest.mark.parametrize(("joined", "inside"), [(False, 1), (True, 0)])
def test_a_budget_spent_inside_a_block(scraped: Scraped, joined: bool, inside: int) -> None:
    branch = a_branch()
    fork(branch)
    if joined:
        join(branch, WORD)
    branch.tree.end()
    scraped.observer.finished(branch, FINISH_LENGTH(length=branch.tree.total))
    assert scraped("malformed_total", kind="length_inside_block") == inside
    assert scraped("forked_requests_total", finish_reason="length") == 1


def test_other_kinds_are_counted_where_they_are_told(scraped: Scraped) -> None:
    for kind in ("ended_inside_path", "refused_prompt", "contained_error"):
        scraped.observer.malformed(kind)
        scraped.observer.malformed(kind, 2)
        assert scraped("malformed_total", kind=kind) == 3


def test_a_row_is_deferred_once_however_long_it_waits(scraped: Scraped) -> None:
    first, second = SimpleNamespace(), SimpleNamespace()
    for waiting in ([first], [first, second], [second], [], [first]):
        scraped.observer.deferred(waiting)
    assert scraped("deferred_rows_total") == 3  # the last one waits a second time


def test_retraction_and_replay(scraped: Scraped) -> None:
    branch = a_branch()
    assert branch.req is not None
    scraped.observer.replay_started(branch, 7)
    branch.req.retraction_count = 1
    scraped.observer.retracted()
    scraped.observer.replay_started(branch, 40)
    assert scraped("retracted_trees_total") == 1
    assert scraped("replayed_tokens_total", cause="prompt") == 7
    assert scraped("replayed_tokens_total", cause="retraction") == 40


def test_totals_are_kept_without_a_collector() -> None:
    observer = Observer()
    branch = a_branch()
    fork(branch)
    observer.forked(branch)
    observer.malformed("stray_tag", 2)
    observer.gauges({"live_paths": 2})
    observer.finished(branch, FINISH_ABORT())
    totals = observer.totals()
    assert totals["forks"] == 1
    assert totals["joins"] == 0
    assert totals["malformed"]["stray_tag"] == 2
    assert totals["forked_requests"] == {"stop": 0, "length": 0, "abort": 1}
    assert not observer.exports
    json.dumps(totals)


def test_one_line_for_a_forked_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger.name)
    branch = a_branch(rid="a b\n, forks=9")
    fork(branch)
    join(branch, WORD)
    assert branch.req is not None
    branch.req.retraction_count = 2
    branch.tree.tally.forward_steps = 11
    Observer(logs=False).finished(branch, STOP)
    assert caplog.records == []
    Observer().finished(branch, STOP)
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.name == "sglang.srt.managers.scheduler"
    measured = branch.tree.parallelism()
    assert record.getMessage() == (
        'Multiverse request: rid="a b\\n, forks=9", forks=1, paths=2, depth=1, '
        f"degree={measured.degree:.3f}, critical_path_tokens={measured.critical_path_tokens}, "
        f"generated_tokens={measured.tokens}, forward_steps=11, retractions=2, finish_reason=stop"
    )


def test_plain_values_of_a_line_stand_unquoted() -> None:
    assert line(rid="chatcmpl-1f.2:3", n=4) == "rid=chatcmpl-1f.2:3, n=4"
    assert line(rid="é") == 'rid="\\u00e9"'


# What SGLang reports of itself.


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch, scraped: Scraped) -> Any:
    """A forked request with two rows, one that waits for its replay, one plain row, a path that
    waits, and a row that only writes KV."""
    running, waiting = a_branch(rid="running"), a_branch(rid="waiting")
    fork(running, 3)
    running.node.kids[2].state = State.QUEUED
    fork(waiting)
    for kid in waiting.node.kids:
        kid.state = State.RESUMING
    rows = [SimpleNamespace(multiverse=kid.handle) for kid in running.node.kids[:2]]
    rows += [SimpleNamespace(), SimpleNamespace(multiverse=a_branch(rid="not forked"))]
    rows.append(SimpleNamespace(multiverse="a row that only writes KV"))
    made = SimpleNamespace(
        trees=[running, waiting],
        replays=[waiting],
        queue=[object()],
        observer=scraped.observer,
        dialect=DIALECT,
        options=EngineOptions(max_live_rows=2),
        scheduler=SimpleNamespace(running_batch=SimpleNamespace(reqs=rows)),
    )
    monkeypatch.setattr(armed, "_active", made)
    return made


def test_gauges_count_requests_apart_from_rows(active: Any, scraped: Scraped) -> None:
    stats = SchedulerStats(num_queue_reqs=QueueCount(total=4))
    report._log_stats(None, stats)
    assert scraped("running_requests") == 3
    assert scraped("running_forked_requests") == 1
    assert scraped("live_paths") == 2
    assert scraped("waiting_rows") == 1
    assert scraped("replays_waiting") == 1
    assert stats.num_queue_reqs.total == 5
    active.trees, active.replays, active.queue = [], [], []
    active.scheduler.running_batch.reqs = []
    report._log_idle(None, None)
    for metric in METRICS:
        if metric.kind == "Gauge":
            assert scraped(metric.name) == 0, metric.name


def test_every_gauge_has_a_reading(active: Any) -> None:
    gauges = {metric.name for metric in METRICS if metric.kind == "Gauge"}
    assert set(report.readings(active)) == gauges


def test_loads_count_a_tree_once_and_a_replay_as_waiting(active: Any) -> None:
    rows = active.scheduler.running_batch.reqs
    inquirer = SimpleNamespace(get_running_batch=lambda: active.scheduler.running_batch)

    def loads() -> LoadSnapshot:
        queues = QueueMetrics(waiting=2, grammar=0, paused=0, retracted=0, prealloc_ready=0)
        return LoadSnapshot(
            num_running_reqs=len(rows),
            num_waiting_reqs=2,
            num_waiting_uncached_tokens=10,
            num_used_tokens=100,
            num_total_tokens=110,
            num_active_tokens=110,
            queues=queues,
        )

    got = report._loads(loads(), inquirer)
    tree = active.replays[0].tree
    tokens = len(PROMPT) + tree.total
    assert got.num_running_reqs == 3
    assert got.num_waiting_reqs == got.queues.waiting == 3
    assert got.num_waiting_uncached_tokens == 10 + tokens
    assert got.num_total_tokens == got.num_active_tokens == 110 + tokens
    assert got.num_used_tokens == 100
    assert report._pending(7, inquirer) == 7 + tokens
    active.trees, active.replays = [], []
    assert report._loads(loads(), inquirer) == loads()
    assert report._pending(7, inquirer) == 7


def test_server_info_shows_the_plugin(active: Any) -> None:
    result = SimpleNamespace(internal_state={"version": "of SGLang"})
    shown = report._internal_state(result, None, None).internal_state
    assert shown["version"] == "of SGLang"
    told = shown["multiverse"]
    assert told["version"] == __version__
    assert told["dialect"] == DIALECT.spec.name
    assert told["options"] == asdict(active.options)
    assert (told["trees"], told["live_rows"], told["replays_waiting"]) == (2, 2, 1)
    assert set(told["totals"]) == {
        metric.name.removesuffix("_total") for metric in METRICS if metric.kind == "Counter"
    }


def test_without_the_plugin_armed_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(armed, "_active", None)
    result = SimpleNamespace(internal_state={})
    assert report._internal_state(result, None, None).internal_state == {}
    assert report._loads(LoadSnapshot(num_running_reqs=3), None).num_running_reqs == 3
    assert report._pending(3, None) == 3


# What is written about them.


def _queries(dashboard: Any) -> list[str]:
    panels = [p for panel in dashboard["panels"] for p in (panel, *panel.get("panels", ()))]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def _base(name: str) -> str:
    known = {metric.name for metric in METRICS}
    for suffix in ("_bucket", "_sum", "_count"):
        if name.endswith(suffix) and name.removesuffix(suffix) in known:
            return name.removesuffix(suffix)
    return name


def test_the_dashboard_asks_for_every_metric_and_for_none_that_is_not_there(
    repository: Path,
) -> None:
    dashboard = json.loads((repository / "docs" / "grafana" / "multiverse.json").read_text())
    queries = _queries(dashboard)
    asked = {_base(name) for q in queries for name in re.findall(rf"{PREFIX}(\w+)", q)}
    assert asked == {metric.name for metric in METRICS}
    labels = {"le", *(metric.label for metric in METRICS if metric.label)}
    for query in queries:
        for group in re.findall(r" by \(([^)]*)\)", query):
            assert {label.strip() for label in group.split(",")} <= {*labels, "dp_rank"}, query


def test_every_panel_asks_the_chosen_data_source(repository: Path) -> None:
    dashboard = json.loads((repository / "docs" / "grafana" / "multiverse.json").read_text())
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["targets"]


def test_the_page_lists_every_metric_and_every_kind(repository: Path) -> None:
    page = (repository / "docs" / "metrics.md").read_text()
    for metric in METRICS:
        assert f"| `{PREFIX}{metric.name}` | {metric.kind.lower()} |" in page, metric.name
    for kind in KINDS:
        assert f"| `{kind}` |" in page, kind
    listed = set(re.findall(rf"`{PREFIX}(\w+)", page))
    assert {_base(name) for name in listed} == {metric.name for metric in METRICS}
