"""What a journal tells of a tree, put together again, is the text, its positions and its paths."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_multiverse.engine.journal import Entry, Journal
from sglang_multiverse.engine.node import State
from sglang_multiverse.engine.options import EngineOptions
from sglang_multiverse.engine.tree import Tree
from sglang_multiverse.layout import layout_of
from sglang_multiverse.structure import Block

from ..core.generate import DIALECT, WORD
from .test_tree import Driver, fed, opening


@dataclass
class Lane:
    """A node as a reader of the journal knows it: runs of tokens, and paths in between."""

    parts: list[tuple[int, int] | list[str]] = field(default_factory=list)
    closed: bool = False


class Reader:
    """Puts a text together from entries, as a client would, in the slow and obvious way."""

    def __init__(self) -> None:
        self.lanes = {"": Lane()}

    def read(self, entries: list[Entry]) -> None:
        for entry in entries:
            lane = self.lanes[entry.path]
            assert not lane.closed
            if entry.kind == "text":
                assert entry.ids
                run = zip(entry.ids, range(entry.position, 1 << 62), strict=False)
                lane.parts += list(run)
            elif entry.kind == "fork":
                names = [name for name, _ in entry.paths]
                assert not self.lanes.keys() & set(names)
                self.lanes |= {name: Lane() for name in names}
                lane.parts.append(names)
            elif entry.kind == "close":
                lane.closed = True
            elif entry.kind == "join":
                assert all(self.lanes[name].closed for name in self.open_paths(lane))

    @staticmethod
    def open_paths(lane: Lane) -> list[str]:
        return next(part for part in reversed(lane.parts) if isinstance(part, list))

    def text(self, path: str = "") -> list[tuple[int, int]]:
        """Token and position in canonical order."""
        found: list[tuple[int, int]] = []
        for part in self.lanes[path].parts:
            if isinstance(part, list):
                for name in part:
                    found += self.text(name)
            else:
                found.append(part)
        return found


def names(blocks: list[Block], prefix: str = "") -> list[str]:
    found = []
    for b, block in enumerate(blocks, 1):
        for p, path in enumerate(block.paths, 1):
            name = f"{prefix}{b}.{p}"
            found += [name, *names(path.blocks, f"{name}.")]
    return found


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    limit=st.integers(1, 400),
    depth=st.sampled_from([None, 0, 1, 2]),
)
def test_what_is_told_is_the_text_with_its_positions_and_paths(
    seed: int, limit: int, depth: int | None
) -> None:
    options = EngineOptions(max_depth=depth)
    prompt = [WORD] * (seed % 3 + 1)
    driver = Driver(Tree(prompt, DIALECT, options, limit), seed)
    journal, reader = Journal(driver.tree), Reader()
    for _ in range(250):
        if driver.tree.over:
            break
        driver.step()
        reader.read(journal.news())
        assert len(reader.text()) == driver.tree.total
    driver.read(everything=True)
    reader.read(journal.news())
    assert journal.news() == []
    assert [entry.kind for entry in journal.end()] == ["end"]
    assert journal.end() == []

    told = reader.text()
    assert [token for token, _ in told] == driver.stream
    _, trace, _ = driver.tree.trace()
    laid = layout_of(trace)
    assert [position for _, position in told] == laid.position[len(prompt) :].tolist()
    assert sorted(reader.lanes) == sorted(["", *names(trace.blocks)])


def test_paths_are_announced_with_their_outlines() -> None:
    tree = Tree([WORD], DIALECT, EngineOptions(), 500)
    journal = Journal(tree)
    fed(tree, tree.root, opening(2))
    said, fork, *seeds = journal.news()
    assert (said.kind, said.path, said.position) == ("text", "", 1)
    assert list(said.ids) == list(tree.root.tokens[1:])
    assert fork.kind == "fork"
    assert [(name, list(ids)) for name, ids in fork.paths] == [("1.1", [WORD]), ("1.2", [WORD])]
    assert [(e.kind, e.path, e.position) for e in seeds] == [
        ("text", "1.1", fork.position),
        ("text", "1.2", fork.position),
    ]


def test_a_row_laid_anew_under_a_path_moves_no_position() -> None:
    """Where paths share, the tokens of siblings come to stand before a path's own in its row."""
    tree = Tree([WORD], DIALECT, EngineOptions(share_every=4), 500)
    journal, reader = Journal(tree), Reader()
    fed(tree, tree.root, opening(2))
    reader.read(journal.news())
    for more in (4, 3):
        for kid in tree.root.kids:
            kid.state = State.RUNNING
            kid.base += more
            kid.delta += more
            fed(tree, kid, [WORD] * 4)
            reader.read(journal.news())
    told = [position for _, position in reader.text()]
    _, trace, _ = tree.trace()
    assert told == layout_of(trace, share_every=4).position[1:].tolist()
