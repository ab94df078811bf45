"""What fork and join did, counted: Prometheus metrics, totals, and a log line per forked request.

The coordinator tells an :class:`Observer` of each event. It adds plain integers always (for
``/server_info``) and, where SGLang made a metrics collector for this scheduler
(``--enable-metrics``), Prometheus metrics with that collector's labels. Nothing runs per token.

Reads ``Scheduler.metrics_collector_context`` and ``SchedulerMetricsCollector.labels``: SGLang's
collector has a fixed set of metrics and no way to add one. The metrics are made in the scheduler's
process, under the directory SGLang set up for prometheus_client's multiprocess mode, so that
``/metrics`` of the HTTP server shows them. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...engine.tree import Node
from ..rows.branch import Branch

#: The scheduler's own logger, so that its level and its format hold.
logger = logging.getLogger("sglang.srt.managers.scheduler")

PREFIX = "sglang:multiverse_"

#: How a request can leave the canonical form; the first six are the automaton's own codes.
KINDS = (
    "too_many_branches",
    "too_deep",
    "single_outline",
    "no_outline",
    "broken_goal",
    "stray_tag",
    "ended_inside_path",
    "length_inside_block",
    "refused_prompt",
    "contained_error",
)

_RATIOS = (1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_TOKENS = tuple(float(2**power) for power in range(4, 18))
_PATHS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: without the prefix; a counter's ends in ``_total``.
        kind: ``Counter``, ``Gauge`` or ``Histogram``.
        label: a label on top of SGLang's own, or None.
        values: values of ``label`` that are shown from the start, at zero.
        buckets: upper bounds, of a histogram.
    """

    name: str
    kind: str
    meaning: str
    label: str | None = None
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS = (
    Metric("eligible_requests_total", "Counter", "Requests that may fork when the model asks to."),
    Metric(
        "forked_requests_total",
        "Counter",
        "Ended requests that had forked.",
        "finish_reason",
        ("stop", "length", "abort"),
    ),
    Metric("forks_total", "Counter", "Goals that forked, nested ones included."),
    Metric("joins_total", "Counter", "Blocks whose paths were joined."),
    Metric("paths_per_fork", "Histogram", "Paths of a goal that forked.", buckets=_PATHS),
    Metric(
        "parallelism",
        "Histogram",
        "Generated tokens per critical-path token of an ended request that had forked.",
        buckets=_RATIOS,
    ),
    Metric(
        "critical_path_tokens",
        "Histogram",
        "Generated tokens on the longest chain of an ended request that had forked.",
        buckets=_TOKENS,
    ),
    Metric(
        "generated_tokens_total", "Counter", "Generated tokens of ended requests that had forked."
    ),
    Metric("deferred_rows_total", "Counter", "Rows that had to wait for room or for their turn."),
    Metric("retracted_trees_total", "Counter", "Forked requests whose KV was taken away."),
    Metric(
        "replayed_tokens_total",
        "Counter",
        "Tokens computed in a replay.",
        "cause",
        ("retraction", "prompt"),
    ),
    Metric(
        "malformed_total",
        "Counter",
        "Departures from the canonical form, refusals, contained errors.",
        "kind",
        KINDS,
    ),
    Metric("running_requests", "Gauge", "Running requests, a forked one counted once."),
    Metric("running_forked_requests", "Gauge", "Running requests that have forked."),
    Metric("live_paths", "Gauge", "Paths that decode in a row of their own."),
    Metric("waiting_rows", "Gauge", "Rows that wait for room or for their turn."),
    Metric("replays_waiting", "Gauge", "Requests that wait for their replay."),
)


class Exporter:
    """The metrics as Prometheus objects.

    Args:
        labels: label → value, on every sample.
        registry: where to register; prometheus_client's default if None.
        classes: stand-ins for prometheus_client's classes, by name.
    """

    def __init__(
        self,
        labels: Mapping[str, Any],
        *,
        registry: Any = None,
        classes: Mapping[str, Any] | None = None,
    ):
        # Imported late: prometheus_client chooses its storage by the environment at import.
        import prometheus_client

        self._labels = dict(labels)
        self._label = {metric.name: metric.label for metric in METRICS}
        self._families: dict[str, Any] = {}
        self._children: dict[tuple[str, str | None], Any] = {}
        for metric in METRICS:
            made = (classes or {}).get(metric.kind) or getattr(prometheus_client, metric.kind)
            extra: dict[str, Any] = {} if registry is None else {"registry": registry}
            if metric.kind == "Gauge":
                extra["multiprocess_mode"] = "mostrecent"
            elif metric.kind == "Histogram":
                extra["buckets"] = metric.buckets
            names = [*self._labels, *([metric.label] if metric.label else [])]
            self._families[metric.name] = made(
                name=PREFIX + metric.name, documentation=metric.meaning, labelnames=names, **extra
            )
            for value in metric.values or (None,):
                self.child(metric.name, value)

    @classmethod
    def beside(cls, collector: Any) -> Exporter:
        """Metrics with the labels, and made of the classes, of SGLang's own collector."""
        classes = {
            kind: getattr(collector, f"_{kind.lower()}_cls")
            for kind in ("Counter", "Gauge", "Histogram")
        }
        return cls(collector.labels, classes=classes)

    def child(self, name: str, value: str | None = None) -> Any:
        """The sample of metric ``name`` with ``value`` for its label."""
        found = self._children.get((name, value))
        if found is None:
            label = self._label[name]
            labels = self._labels if label is None else {**self._labels, label: value}
            found = self._children[name, value] = self._families[name].labels(**labels)
        return found


class Observer:
    """Counts what the coordinator tells it.

    Args:
        exporter: where to show it besides :meth:`totals`; None without ``--enable-metrics``.
        logs: whether to log a line per forked request; one rank of a scheduler group does.
    """

    def __init__(self, exporter: Exporter | None = None, *, logs: bool = True):
        self._exporter = exporter
        self._logs = logs
        self._totals: dict[tuple[str, str | None], int] = {
            (metric.name, value): 0
            for metric in METRICS
            if metric.kind == "Counter"
            for value in metric.values or (None,)
        }
        self._waiting: dict[int, Any] = {}
        self._gauges: dict[str, int] = {}

    @classmethod
    def for_scheduler(cls, scheduler: Any) -> Observer:
        context = scheduler.metrics_collector_context
        exporter = None
        if context.current_scheduler_metrics_enabled:
            exporter = Exporter.beside(context.collector)
        return cls(exporter, logs=context.is_stats_logging_rank)

    def _count(self, name: str, n: int = 1, value: str | None = None) -> None:
        self._totals[name, value] = self._totals.get((name, value), 0) + n
        if self._exporter is not None:
            self._exporter.child(name, value).inc(n)

    def _observe(self, name: str, amount: float) -> None:
        if self._exporter is not None:
            self._exporter.child(name).observe(amount)

    # Events.

    def admitted(self) -> None:
        """A request has entered that may fork."""
        self._count("eligible_requests_total")

    def forked(self, branch: Branch) -> None:
        """The goal of ``branch`` has just forked."""
        self._count("forks_total")
        self._observe("paths_per_fork", len(branch.node.kids))

    def joined(self, kids: Iterable[Node]) -> None:
        """``kids``, the paths of one block, have become tokens of the node that forked."""
        self._count("joins_total")
        self._count_issues(kids)

    def deferred(self, waiting: Iterable[Any]) -> None:
        """``waiting`` are the rows left in the queue; each row counts once, however long."""
        # Kept by reference: an id is unique among living objects alone.
        now = {id(row): row for row in waiting}
        fresh = sum(1 for key in now if key not in self._waiting)
        self._waiting = now
        if fresh:
            self._count("deferred_rows_total", fresh)

    def retracted(self) -> None:
        """All KV of a forked request has been taken away."""
        self._count("retracted_trees_total")

    def replay_started(self, root: Branch, tokens: int) -> None:
        """``tokens`` of ``root`` will be computed in causal rows."""
        assert root.req is not None
        cause = "retraction" if root.req.retraction_count else "prompt"
        self._count("replayed_tokens_total", tokens, cause)

    def malformed(self, kind: str, n: int = 1) -> None:
        """``n`` departures of a ``kind`` (see :data:`KINDS`)."""
        self._count("malformed_total", n, kind)

    def finished(self, root: Branch, reason: Any) -> None:
        """An eligible request has ended, forked or not, for ``reason`` (SGLang's finish reason).

        Called once per request, before it is streamed for the last time.
        """
        tree = root.tree
        self._count_issues(tree.nodes(), prompt=tree.prompt_len)
        ended: str = reason.to_json()["type"]
        if ended == "length" and tree.root.kids:
            self.malformed("length_inside_block")
        if not tree.tally.forks:
            return
        measured = tree.parallelism()
        self._count("forked_requests_total", value=ended)
        self._count("generated_tokens_total", measured.tokens)
        self._observe("parallelism", measured.degree)
        self._observe("critical_path_tokens", measured.critical_path_tokens)
        if self._logs:
            assert root.req is not None
            logger.info(
                "Multiverse request: "
                + line(
                    rid=root.req.rid,
                    forks=tree.tally.forks,
                    paths=tree.tally.paths,
                    depth=tree.tally.depth,
                    degree=f"{measured.degree:.3f}",
                    critical_path_tokens=measured.critical_path_tokens,
                    generated_tokens=measured.tokens,
                    forward_steps=tree.tally.forward_steps,
                    retractions=root.req.retraction_count,
                    finish_reason=ended,
                )
            )

    def _count_issues(self, nodes: Iterable[Node], *, prompt: int = 0) -> None:
        """Count what each node's automaton noted; the trunk's prompt is the caller's doing."""
        for node in nodes:
            first = prompt if node.parent is None else 0
            for issue in node.sequencer.issues:
                if issue.offset >= first:
                    self.malformed(issue.code)

    # States.

    def gauges(self, values: Mapping[str, int]) -> None:
        """Show the present value of each gauge; those that have not changed cost a comparison."""
        if self._exporter is None or values == self._gauges:
            return
        self._gauges = dict(values)
        for name, value in values.items():
            self._exporter.child(name).set(value)

    @property
    def exports(self) -> bool:
        """Whether anybody sees :meth:`gauges`."""
        return self._exporter is not None

    def totals(self) -> dict[str, Any]:
        """Every counter since the start, without ``_total``; one with a label as a mapping."""
        shown: dict[str, Any] = {}
        for (name, value), n in self._totals.items():
            short = name.removesuffix("_total")
            if value is None:
                shown[short] = n
            else:
                shown.setdefault(short, {})[value] = n
        return shown


def line(**fields: Any) -> str:
    """``key=value`` pairs; a value with anything but word signs, ``.``, ``:`` and ``-`` in it is
    quoted as a JSON string."""
    return ", ".join(f"{key}={_quoted(str(value))}" for key, value in fields.items())


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[\w.:-]+", value, re.ASCII) else json.dumps(value)
