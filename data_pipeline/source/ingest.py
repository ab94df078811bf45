"""Reading chains: rows of a dataset or of files, to records. A bad row is counted, never fatal."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_multiverse import corpus
from sglang_multiverse.text import encodable

from ..aside import Aside
from ..record import Record, item_id
from ..teacher.call import digest

if TYPE_CHECKING:
    from ..config import Source

#: What a source of files may be.
FORMATS = (
    "A source is JSON lines (.jsonl), JSON (.json), either also packed (.gz), or parquet "
    "(.parquet); convert what is anything else"
)


#: The tags that models put around a thought, this project's own among them.
_OPENING = re.compile(r"(?i)\s*<think>")
_CLOSING = re.compile(r"(?i)</think>")
_CLOSING_AT_AN_EDGE = re.compile(
    r"^[ \t]*</think>|</think>(?=[ \t]*$)", re.IGNORECASE | re.MULTILINE
)
_TAG_LINE = re.compile(r"(?im)^[ \t]*</?think>[ \t]*$")


#: Where a test set has its questions.
_ASKED = ("question", "problem")


class IngestError(ValueError):
    """A source that cannot be read at all."""


@dataclass(frozen=True)
class Skipped:
    """A row that is left out before any call: where, why."""

    row: int
    code: str
    message: str


@dataclass
class Ingested:
    """The records of a source. ``identity`` names source, revision and content, ``untagged`` counts
    the records whose chain came in ``<think>`` tags."""

    records: Aside[Record] = field(default_factory=Aside)
    skipped: list[Skipped] = field(default_factory=list)
    identity: str = ""
    untagged: int = 0

    @property
    def reasons(self) -> Counter[str]:
        return Counter(one.code for one in self.skipped)


def ingest(source: Source) -> Ingested:
    """Read ``source``.

    Raises:
        IngestError: it is not there, or none of its rows has the columns.
    """
    identity: list[Any] = [source.model_dump(mode="json", exclude={"limit"})]
    if source.dataset is not None:
        rows = _from_hub(source)
    else:
        identity += [_content_hash(path) for path in source.files]
        rows = (row for path in source.files for row in read_rows(path))
    found = Ingested(identity=digest(identity)[:16])
    screen = Screen(source)
    for number, row in enumerate(rows, start=1):
        if source.limit is not None and len(found.records) == source.limit:
            break
        made = screen(row, number)
        if isinstance(made, Skipped):
            found.skipped.append(made)
        else:
            try:
                found.records.append(made)
            except OSError as error:
                raise IngestError(
                    f"the records do not fit into {tempfile.gettempdir()}: "
                    f"{error.strerror or error}; make room, or name another folder by TMPDIR"
                ) from error
            found.untagged += made.columns is not row
    if not found.records:
        reasons = "; ".join(f"row {one.row}: {one.message}" for one in found.skipped[:3])
        if reasons and set(found.reasons) == {"unreadable"}:
            reasons += f". {FORMATS}"
        raise IngestError(f"no row of the source can be used: {reasons or 'it is empty'}")
    return found


class Screen:
    """Which rows of ``source`` are taken, in their order: what cannot be read, what was there
    before and what stands in a test set is left out.

    Raises:
        IngestError: a test set cannot be read.
    """

    def __init__(self, source: Source):
        self.source = source
        self.seen: dict[str, Any] = {}
        self._forbidden = _ngrams_of_files(source.decontaminate, source.ngram)

    def __call__(self, row: Any, number: int, place: Any = None) -> Record | Skipped:
        """The record of ``row``, or why it is none. A row that is read once more at the same
        ``place`` is not its own duplicate."""
        made = read_record(row, number, self.source)
        if isinstance(made, Skipped):
            return made
        before = self.seen.get(made.id)
        if made.id in self.seen and (place is None or before != place):
            return Skipped(number, "duplicate", "an earlier row has the same question and chain")
        if self._forbidden & ngrams(made.question, self.source.ngram):
            return Skipped(number, "contaminated", "the question shares words with a test set")
        self.seen[made.id] = place
        return made


def read_record(row: Any, number: int, source: Source) -> Record | Skipped:
    """The record of one row, or why it is none."""
    if isinstance(row, corpus.BadRow):
        return Skipped(number, "unreadable", str(row))
    if not isinstance(row, dict):
        return Skipped(number, "not-an-object", f"expected an object, got {type(row).__name__}")
    columns = source.columns
    texts: dict[str, str] = {}
    for role, name in (("question", columns.question), ("chain", columns.chain)):
        if name is None:  # answers are drawn: there is none
            texts[role] = ""
            continue
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            what = "is missing" if value is None else "holds no text"
            if corpus.is_chat(value):
                what = "holds messages; write what they say to columns of text"
            return Skipped(number, f"no-{role}", f"column {name!r} {what}")
        texts[role] = encodable(value)
    for role in ("attempt", "answer"):
        name = getattr(columns, role)
        named = name is not None and role in columns.model_fields_set
        if named and name not in row:
            return Skipped(number, "no-column", f"no column {name!r} (`source.columns.{role}`)")
    attempt = str((row.get(columns.attempt) if columns.attempt else None) or "")
    answer = row.get(columns.answer) if columns.answer else None
    chain = texts["chain"]
    split = without_tags(chain)
    if split is not None:
        chain, rest = split
        if not chain:
            return Skipped(
                number, "no-chain", f"column {columns.chain!r} holds no text in its tags"
            )
        row = {**row, str(columns.chain): chain}
    if (whole := without_tags(attempt)) is not None:  # thought and answer, both in this column
        attempt = whole[1]
    if split is not None and not attempt.strip():
        attempt = rest
        if columns.attempt and rest:
            row[columns.attempt] = rest
    if tag := _TAG_LINE.search(f"{chain}\n{attempt}"):
        message = f"the line {tag[0].strip()!r} is no part of a thought; give the chain without it"
        return Skipped(number, "think-tag", message)
    if not attempt and not answer:
        return Skipped(
            number, "no-answer", f"neither {columns.attempt!r} nor {columns.answer!r} has a value"
        )
    for name, wanted in source.require.items():
        if str(row.get(name)) != wanted:
            return Skipped(number, "filtered", f"{name} is {row.get(name)!r}, not {wanted!r}")
    question = texts["question"].strip()
    return Record(
        id=item_id(question, chain),
        question=question,
        source=chain.strip(),
        attempt=encodable(attempt).strip(),
        answer=None if answer is None else encodable(str(answer)),
        columns=row,
    )


def without_tags(text: str) -> tuple[str, str] | None:
    """A thought that a model marked, without its tags, and what follows it; None where there are
    none. The opening tag may be missing: with many models it belongs to the prompt.

    >>> without_tags("<think>\\nOne and one.\\n</think>\\n\\nIt is 2.")
    ('One and one.', 'It is 2.')
    """
    opened = _OPENING.match(text)
    thought = text[opened.end() :] if opened else text
    closed = (_CLOSING if opened else _CLOSING_AT_AN_EDGE).search(thought)
    if opened is None and closed is None:
        return None
    if closed is None:
        return thought.strip(), ""
    return thought[: closed.start()].strip(), thought[closed.end() :].strip()


def read_rows(path: Path) -> Iterator[Any]:
    """The rows of a file, as every command reads them: a :class:`~.corpus.BadRow` for one that is
    none.

    Raises:
        IngestError: the file cannot be read.
    """
    for one in _numbered(path):
        yield one if isinstance(one, corpus.BadRow) else dict(one[1])


def _numbered(path: Path) -> Iterator[tuple[int, corpus.Fields] | corpus.BadRow]:
    try:
        yield from corpus.rows(str(path))
    except corpus.CorpusError as error:
        raise IngestError(str(error)) from error


def _from_hub(source: Source) -> Iterator[Any]:
    from datasets import load_dataset

    assert source.dataset is not None
    try:
        rows = load_dataset(
            source.dataset, source.config, split=source.split, revision=source.revision
        )
    except Exception as error:  # the hub's clients raise errors of many packages
        raise IngestError(
            f"{source.dataset} at {source.revision}: {error or type(error).__name__}"
        ) from error
    yield from rows


def _content_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise IngestError(f"{path}: {error.strerror}") from error


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """The runs of ``n`` words of ``text``, without case and signs; of a shorter text, all of it."""
    words = re.findall(r"\w+", text.lower())
    if not words:
        return set()
    return {tuple(words[at : at + n]) for at in range(max(len(words) - n, 0) + 1)}


def _ngrams_of_files(paths: Sequence[Path], n: int) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for path in paths:
        for one in _numbered(path):
            if isinstance(one, corpus.BadRow):
                raise IngestError(f"a test set must be whole: {one}")
            number, row = one
            name = next((name for name in _ASKED if row.get(name) is not None), None)
            if name is None:
                wanted = " or ".join(map(repr, _ASKED))
                raise IngestError(f"{path}:{number}: no question of a test set in {wanted}")
            if not isinstance(row[name], str):
                held = type(row[name]).__name__
                raise IngestError(f"{path}:{number}: column {name!r} holds {held}, not text")
            found |= ngrams(row[name], n)
    return found
