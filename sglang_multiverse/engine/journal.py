"""What has happened in a tree since one last looked: the raw form of a stream that names its paths.

A :class:`Journal` compares the nodes of a tree with what it has told of them, so that nothing in
the tree need report to it. Look after every step: between two looks a node may gain tokens, fork,
close or join, each once.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Literal

from .node import Node, State
from .tree import Tree

Kind = Literal["text", "fork", "close", "join", "end"]


@dataclass(frozen=True)
class Entry:
    """One thing that happened.

    Attributes:
        path: of the node it happened to: ``""`` for the trunk, else block and path in turn, counted
            from 1 in the answer: ``"2.1"`` is the first path of the second block, ``"2.1.1.3"`` the
            third path of the first block inside it.
        position: of the first token of ``ids``; of the token that would follow, where there are
            none: the first of the paths for a fork, of the conclusion for a join.
        ids: the tokens of a ``text``.
        paths: the paths of a ``fork``, and the ids of what their outlines say.
    """

    kind: Kind
    path: str
    position: int
    ids: array[int] = field(default_factory=lambda: array("q"))
    paths: tuple[tuple[str, array[int]], ...] = ()


@dataclass
class _Told:
    """What has been told of one node.

    Attributes:
        origin: position minus index of its own tokens. A row may be laid anew under a path that
            shares, base and delta with it; what a token's position is does not change.
    """

    name: str
    tokens: int
    origin: int
    blocks: int = 0
    kids: list[Node] = field(default_factory=list)
    closed: bool = False


class Journal:
    """Tells what happens to the nodes of ``tree`` after its prompt."""

    def __init__(self, tree: Tree):
        self.tree = tree
        self.ended = False
        self._told = {tree.root: _Told("", tree.prompt_len, -tree.root.delta)}

    def news(self) -> list[Entry]:
        """Everything since the last call, a node before its paths, paths in canonical order."""
        entries: list[Entry] = []
        if not self.ended:
            self._look(self.tree.root, entries)
        return entries

    def end(self) -> list[Entry]:
        """The answer has ended; once."""
        if self.ended:
            return []
        self.ended = True
        return [Entry("end", "", self.tree.root.next_position)]

    def _look(self, node: Node, entries: list[Entry]) -> None:
        told = self._told[node]
        if told.kids and told.kids is not node.kids:
            self._joined(node, told, entries)
        self._text(node, told, len(node.tokens), entries)
        if node.kids and told.kids is not node.kids:
            self._forked(node, told, entries)
        for kid in node.kids:
            self._look(kid, entries)
        if node.state is State.CLOSED and not told.closed:
            told.closed = True
            entries.append(Entry("close", told.name, node.next_position))

    def _text(self, node: Node, told: _Told, end: int, entries: list[Entry]) -> None:
        if end > told.tokens:
            position = told.origin + told.tokens
            entries.append(Entry("text", told.name, position, node.tokens[told.tokens : end]))
            told.tokens = end

    def _forked(self, node: Node, told: _Told, entries: list[Entry]) -> None:
        told.kids = node.kids
        told.blocks += 1
        prefix = f"{told.name}.{told.blocks}" if told.name else str(told.blocks)
        paths = []
        for kid, (start, end) in zip(node.kids, node.sequencer.outlines, strict=True):
            name = f"{prefix}.{kid.index + 1}"
            self._told[kid] = _Told(name, 0, kid.base - kid.delta)
            paths.append((name, node.tokens[start + 1 : end - 1]))
        entries.append(Entry("fork", told.name, node.next_position, paths=tuple(paths)))

    def _joined(self, node: Node, told: _Told, entries: list[Entry]) -> None:
        """The paths' tokens are the node's own now; what is new of them is told as theirs."""
        for kid in told.kids:
            its = self._told.pop(kid)
            self._text(kid, its, len(kid.tokens), entries)
            if not its.closed:
                entries.append(Entry("close", its.name, kid.next_position))
            told.tokens += len(kid.tokens)
        told.kids = []
        told.origin = node.base - node.delta
        entries.append(Entry("join", told.name, told.origin + told.tokens))


__all__ = ["Entry", "Journal"]
