"""When paths that share get rows: the part of the coordinator that keeps their common clock.

Whenever a path pauses, ends or begins, the block may have come to another chunk
(``engine/sharing.py``). What its paths may then write is queued, ends of closed paths before the
rows that see them.
"""

from __future__ import annotations

from ...engine.node import Node, State
from ...engine.sharing import reached, runs
from ..rows.branch import Branch
from ..rows.launch import Row
from ..rows.sharing import ChunkRow, ShareRow
from ..rows.slots import SlotPool


class Sharing:
    """Mixed into the coordinator: its pool and queue."""

    pool: SlotPool
    queue: list[Row]

    def _shares(self, parent: Node, every: int) -> list[Row]:
        """Rows of all that the open paths of ``parent`` may write now and have not asked for.

        Nothing while no open path has a row to come: the ends of closed ones can wait.
        """
        if not parent.kids:
            return []
        tree = parent.handle.tree
        reach = reached(parent, every)
        joins = tree.ready_to_join(parent)
        asked: dict[Branch, int] = {}
        found: list[tuple[int, Row]] = []
        awaited = joins
        for kid in parent.kids:
            if kid.state is State.RUNNING:
                continue
            branch: Branch = kid.handle or Branch(tree, kid)
            kid.handle = branch
            if branch.slots is None:
                branch.slots = self.pool.empty
            begin = max(branch.asked, len(branch.slots))
            for run in runs(kid, begin, reach, every):
                row: Row
                if kid.state is State.SHARING and run.end == len(kid.tokens):
                    row = ShareRow(branch, run)
                else:
                    row = ChunkRow(branch, run, branch.above_all())
                found.append((run.chunk, row))
                asked[branch] = run.end
                awaited |= kid.state is State.SHARING
        if not awaited:
            return []
        for branch, end in asked.items():
            branch.asked = end
        found.sort(key=lambda pair: pair[0])
        return [row for _, row in found]

    def _queue_behind(self, branch: Branch, rows: list[Row]) -> None:
        """Queue ``rows`` before other requests', behind those of their own that they rest on."""
        mine = [row for row in self.queue if row.branch.tree is branch.tree]
        others = [row for row in self.queue if row.branch.tree is not branch.tree]
        self.queue = [*mine, *rows, *others]
