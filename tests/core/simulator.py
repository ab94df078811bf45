"""A forking engine on paper: rows with page tables that are copied at a fork and concatenated at
a join. It asks :class:`Sequencer` what a token means and knows nothing of trees or layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from sglang_multiverse.dialect import Dialect, Tag
from sglang_multiverse.structure import Limits, Sequencer, Signal

from .generate import NEWLINE, WORD, ZERO, Made, MadeBlock


@dataclass
class Row:
    """One running sequence. ``table`` lists the slots it reads."""

    sequencer: Sequencer
    table: list[int]
    next_position: int
    parent: Row | None = None
    own: list[int] = field(default_factory=list)  # slots of its text, joined paths included
    children: list[Row] = field(default_factory=list)
    done: bool = False


Steps = Iterator[Row]


class Machine:
    """Slots with their token, what each one's row could read, and its position."""

    def __init__(self, dialect: Dialect, limits: Limits):
        self.dialect = dialect
        self.limits = limits
        self.tokens: list[int] = []
        self.reads: list[set[int]] = []
        self.positions: list[int] = []
        self.trunk = Row(Sequencer(dialect, 0, limits), [], 0)
        self.rows = [self.trunk]

    def write(self, row: Row, *tokens: int) -> None:
        for token in tokens:
            slot = len(self.tokens)
            row.table.append(slot)
            row.own.append(slot)
            self.tokens.append(int(token))
            self.reads.append(set(row.table))
            self.positions.append(row.next_position)
            row.next_position += 1

    def decode(self, row: Row, token: int) -> Signal:
        """One sampled token."""
        offset = len(row.own)
        self.write(row, token)
        return row.sequencer.feed(token, offset)

    def fork(self, row: Row, n: int) -> list[Row]:
        depth = row.sequencer.depth + 1
        row.children = [
            Row(
                Sequencer(self.dialect, depth, self.limits), list(row.table), row.next_position, row
            )
            for _ in range(n)
        ]
        self.rows += row.children
        return row.children

    def close(self, row: Row) -> bool:
        """A path is over; True when it was the last one and its parent has been joined."""
        row.done = True
        parent = row.parent
        assert parent is not None
        if not all(child.done for child in parent.children):
            return False
        for child in parent.children:
            parent.table += child.own
            parent.own += child.own
            self.rows.remove(child)
        parent.next_position = max(child.next_position for child in parent.children)
        parent.children = []
        parent.sequencer.resume()
        return True

    def running(self) -> list[Row]:
        return [row for row in self.rows if not row.done and not row.children]

    def result(self) -> tuple[list[int], list[set[int]], list[int]]:
        """Tokens in canonical order, and for each the text offsets it read and its position."""
        slots = self.trunk.own
        assert sorted(slots) == list(range(len(self.tokens)))  # every slot has one owner
        offset = {slot: t for t, slot in enumerate(slots)}
        return (
            [self.tokens[slot] for slot in slots],
            [{offset[k] for k in self.reads[slot]} for slot in slots],
            [self.positions[slot] for slot in slots],
        )


def replay(made: Made, dialect: Dialect, random: Random) -> Machine:
    """Decode a given text as an engine would, paths in random interleaving."""
    machine = Machine(dialect, Limits())

    def sequence(row: Row, made: Made, after: Callable[[], None]) -> Steps:
        for item in made.items:
            if isinstance(item, MadeBlock):
                yield from block(row, item)
            else:
                for token in item:
                    assert machine.decode(row, token) is Signal.NONE
                    yield row
        after()

    def block(row: Row, block: MadeBlock) -> Steps:
        end = block.opening.index(Tag.END_GOAL)
        for i, token in enumerate(block.opening):
            if i > end:
                machine.write(row, token)  # the separator, injected
                continue
            assert (machine.decode(row, token) is Signal.FORK) == (i == end)
            yield row
        assert len(row.sequencer.outlines) == block.opening.count(Tag.OUTLINE)
        for child, path in zip(machine.fork(row, len(block.paths)), block.paths, strict=True):
            machine.write(child, *path.head)

            def close(child: Row = child, tail: list[int] = path.tail) -> None:
                assert machine.decode(child, tail[0]) is Signal.END_PATH
                machine.write(child, *tail[1:])
                machine.close(child)

            running[id(child)] = sequence(child, path.body, close)
        while row.children:
            yield row
        machine.write(row, block.closing[0])  # <Conclusion>, injected
        for token in block.closing[1:]:
            assert machine.decode(row, token) is Signal.NONE
            yield row

    running: dict[int, Steps] = {}
    running[id(machine.trunk)] = sequence(machine.trunk, made, lambda: None)
    while running:
        key = random.choice(list(running))
        if next(running[key], None) is None:
            del running[key]
    return machine


def improvise(dialect: Dialect, random: Random, tokens: int, limits: Limits) -> Machine:
    """A model that writes anything, in an engine that forks and joins by the rules."""
    machine = Machine(dialect, limits)
    queued: dict[int, list[int]] = {}

    def end_path(row: Row) -> None:
        machine.write(row, *dialect.path_tail)
        parent = row.parent
        if machine.close(row):
            assert parent is not None
            machine.write(parent, *dialect.conclusion_seed)

    def cut_short(row: Row) -> None:
        for _ in range(row.sequencer.closers - 1):
            assert machine.decode(row, dialect[Tag.END_PATH]) is Signal.NONE
            machine.write(row, *dialect.path_tail)
        assert machine.decode(row, dialect[Tag.END_PATH]) is Signal.END_PATH
        end_path(row)

    while len(machine.tokens) < tokens:
        row = random.choice(machine.running())
        phrase = queued.setdefault(id(row), [])
        if not phrase:
            phrase += random.choice(_PHRASES)
        token = int(phrase.pop(0))
        over = bool(row.parent) and (token == dialect[Tag.END_THINK] or random.random() < 0.01)
        if over:  # end of text or of the thought ends the path, as its closing tag
            cut_short(row)
            continue
        signal = machine.decode(row, token)
        if signal is Signal.FORK:
            outlines = row.sequencer.outlines
            machine.write(row, *dialect.goal_tail)
            for i, child in enumerate(machine.fork(row, len(outlines))):
                machine.write(child, *dialect.path_seed(dialect.ordinal(i)))
        elif signal is Signal.END_PATH:
            end_path(row)
    while row := next((r for r in reversed(machine.running()) if r.parent), None):
        cut_short(row)
    return machine


_OUTLINE = [Tag.OUTLINE, NEWLINE, ZERO + 1, WORD, Tag.END_OUTLINE]
_OPENING = [Tag.PARALLEL, NEWLINE, Tag.GOAL, NEWLINE]
_PHRASES: list[list[int]] = [
    *([[WORD]] * 4),
    *([[*_OPENING, *_OUTLINE * n, Tag.END_GOAL] for n in (1, 2, 2, 3, 5)]),
    [Tag.END_PATH],
    [Tag.END_PATH],
    [Tag.PATH, WORD, Tag.END_PATH],
    [Tag.END_CONCLUSION, NEWLINE, Tag.END_PARALLEL],
    *([[tag] for tag in Tag]),
]
