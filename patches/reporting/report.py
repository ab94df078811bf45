"""What SGLang reports of itself, with trees in it: loads, queue figures, ``/server_info``.

Targets: ``SchedulerLoadInquirer.get_loads`` (behind ``/v1/loads``, data-parallel balancing and the
router: it counts rows, and knows no replay) and ``_get_num_pending_tokens``,
``SchedulerMetricsCollector.log_stats`` (the interval at which SGLang sets its gauges; its count of
waiting requests knows no replay), ``SchedulerMetricsReporter._maybe_log_idle_metrics`` (the same,
once nothing runs) and ``SchedulerInternalStateController.get_internal_state``. None of them asks a
plugin for anything. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from sglang.srt.plugins.hook_registry import HookType

from sglang_multiverse import __version__

from ...engine.tree import State
from ..active import coordinator
from ..hooks import Hook
from ..rows.branch import Branch

if TYPE_CHECKING:
    from ..scheduling.coordinator import Coordinator


def running_requests(active: Coordinator, rows: list[Any]) -> int:
    """Requests behind the running batch's ``rows`` and between forwards, a tree counted once.

    A tree counts from its fork to its end, even while none of its paths has a row; one that waits
    for its replay does not.
    """
    trees = set(active.trees)
    plain = 0
    for req in rows:
        mark = req.__dict__.get("multiverse")
        plain += mark is None or (isinstance(mark, Branch) and mark.root not in trees)
    return plain + len(active.trees) - len(active.replays)


def waiting_tokens(active: Coordinator) -> int:
    """Tokens that the waiting replays have to compute."""
    return sum(root.tree.prompt_len + root.tree.total for root in active.replays)


def readings(active: Coordinator) -> dict[str, int]:
    """The present value of every gauge in ``metrics.py``."""
    waiting = set(active.replays)
    running = [root.tree for root in active.trees if root not in waiting]
    return {
        "running_requests": running_requests(active, active.scheduler.running_batch.reqs),
        "running_forked_requests": sum(1 for tree in running if tree.tally.forks),
        "live_paths": sum(
            1
            for tree in running
            for node in tree.nodes()
            if node.parent is not None and node.state is State.RUNNING
        ),
        "waiting_rows": len(active.queue),
        "replays_waiting": len(active.replays),
    }


def _loads(result: Any, inquirer: Any) -> Any:
    active = coordinator()
    if active is None or not active.trees:  # every row is a request, and no replay waits
        return result
    result.num_running_reqs = running_requests(active, inquirer.get_running_batch().reqs)
    if active.replays:
        tokens = waiting_tokens(active)
        result.num_waiting_reqs += len(active.replays)
        result.num_waiting_uncached_tokens += tokens
        result.num_total_tokens += tokens
        result.num_active_tokens += tokens
        if result.queues is not None:
            result.queues.waiting += len(active.replays)
    return result


def _pending(result: int, inquirer: Any, *args: Any, **kwargs: Any) -> int:
    active = coordinator()
    return result if active is None else result + waiting_tokens(active)


def _log_stats(collector: Any, stats: Any) -> None:
    active = coordinator()
    if active is None:
        return
    if active.replays:
        # Counted anew before every report, so nothing is added twice.
        queue = stats.num_queue_reqs
        stats.num_queue_reqs = replace(queue, total=queue.total + len(active.replays))
    active.observer.gauges(readings(active))


def _log_idle(result: Any, reporter: Any) -> Any:
    active = coordinator()
    if active is not None and active.observer.exports:
        active.observer.gauges(readings(active))
    return result


def state(active: Coordinator) -> dict[str, Any]:
    """What ``/server_info`` shows of the plugin."""
    return {
        "version": __version__,
        "dialect": active.dialect.spec.name,
        "options": asdict(active.options),
        "trees": len(active.trees),
        "live_rows": sum(root.tree.live() for root in active.trees),
        **readings(active),
        "totals": active.observer.totals(),
    }


def _internal_state(result: Any, controller: Any, recv_req: Any) -> Any:
    active = coordinator()
    if active is not None:
        result.internal_state["multiverse"] = state(active)
    return result


_MANAGERS = "sglang.srt.managers.scheduler_components"
_INQUIRER = f"{_MANAGERS}.load_inquirer.SchedulerLoadInquirer"
_REPORTER = f"{_MANAGERS}.metrics_reporter.SchedulerMetricsReporter"
_CONTROLLER = f"{_MANAGERS}.internal_state.SchedulerInternalStateController"
_COLLECTOR = "sglang.srt.observability.metrics_collector.SchedulerMetricsCollector"

HOOKS = (
    Hook(f"{_INQUIRER}.get_loads", HookType.AFTER, _loads, ("self",)),
    Hook(f"{_INQUIRER}._get_num_pending_tokens", HookType.AFTER, _pending, ("self",)),
    Hook(f"{_COLLECTOR}.log_stats", HookType.BEFORE, _log_stats, ("self", "stats")),
    Hook(f"{_REPORTER}._maybe_log_idle_metrics", HookType.AFTER, _log_idle, ("self",)),
    Hook(
        f"{_CONTROLLER}.get_internal_state",
        HookType.AFTER,
        _internal_state,
        ("self", "recv_req"),
    ),
)
