"""One reader of corpora: the same rows of every kind of file, and a line for what is none."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_multiverse.corpus import BadRow, CorpusError, lines, rows, rows_of, text_of, written

ROWS = [{"id": "a", "text": "α\n<Think>", "n": [3]}, {"id": "b", "text": "", "n": [1, 2]}]


def made(folder: Path) -> dict[str, Path]:
    """The same rows in every kind of file."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    jsonl = "\n".join(map(json.dumps, ROWS)).encode()
    raw = {
        "r.jsonl": jsonl,
        "bom.jsonl": b"\xef\xbb\xbf" + jsonl.replace(b"\n", b"\r\n\r\n") + b"\r\n",
        "r.json": json.dumps(ROWS, indent=1).encode(),
        "lines.json": jsonl,
        "other": jsonl,
        "r.jsonl.gz": gzip.compress(jsonl),
        "r.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    }
    for name, content in raw.items():
        (folder / name).write_bytes(content)
    parquet.write_table(pa.Table.from_pylist(ROWS), folder / "r.parquet")
    return {name: folder / name for name in [*raw, "r.parquet"]}


def test_every_kind_of_file_holds_the_same_rows(tmp_path: Path) -> None:
    for name, path in made(tmp_path).items():
        found = list(rows(str(path)))
        assert [
            {key: value for key, value in one[1].items() if value is not None}
            for one in found
            if not isinstance(one, BadRow)
        ] == ROWS, name


def test_one_object_is_a_corpus_of_one_row() -> None:
    assert list(rows_of(b'{"text": "x"}', "f")) == [(1, {"text": "x"})]
    assert list(rows_of(b'[{"text": "x"}, 3]', "f")) == [
        (1, {"text": "x"}),
        BadRow("f", 2, "expected a JSON object, got int"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[1]", "got list"),
        (b"null", "got NoneType"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[" * 200_000, "not JSON"),
        (b'{"a": ' + b"9" * 6000 + b"}", "not JSON"),
        (b"\0", "not JSON"),
    ],
)
def test_a_line_that_is_none_costs_itself_alone(line: bytes, reason: str) -> None:
    good = b'{"text": "x"}\n'
    one, bad, two = lines(io.BytesIO(good + line + b"\n" + good), "f")
    assert not isinstance(one, BadRow) and not isinstance(two, BadRow)
    assert (one[0], two[0]) == (1, 3)
    assert isinstance(bad, BadRow) and str(bad).startswith("f:2: ") and reason in bad.reason


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(content: bytes) -> None:
    for one in [*lines(io.BytesIO(content), "f"), *rows_of(content, "f")]:
        assert isinstance(one, BadRow) or isinstance(one[1], dict)


@pytest.mark.parametrize(
    ("name", "content"),
    [("cut.parquet", b"PAR1xx"), ("no.parquet", b"x"), ("no.jsonl.gz", b"plain"),
     ("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999)[:-20])],
)  # fmt: skip
def test_a_file_that_is_not_what_it_is_called(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=name):
        list(rows(str(tmp_path / name)))


def test_a_gz_that_is_damaged_inside(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b'{"a": 1}\n' * 999))
    packed[10] = 0xFF  # where the header ends: no kind of block that there is
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    with pytest.raises(CorpusError, match=r"a\.jsonl\.gz: .*damaged"):
        list(rows(str(tmp_path / "a.jsonl.gz")))


def test_values_of_parquet_that_python_has_not_cost_their_row(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    far = pa.array([2**60, 0], pa.timestamp("us"))
    parquet.write_table(pa.table({"text": ["a", "b"], "ts": far}), tmp_path / "ts.parquet")
    bad, good = rows(str(tmp_path / "ts.parquet"))
    assert isinstance(bad, BadRow) and bad.row == 1 and "column 'ts'" in bad.reason
    assert not isinstance(good, BadRow) and (good[0], good[1]["text"]) == (2, "b")

    data = pa.py_buffer(b"a\xffb")
    offsets = pa.py_buffer((0).to_bytes(4, "little") + (2).to_bytes(4, "little") + b"\3\0\0\0")
    odd = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
    parquet.write_table(pa.table({"n": [1, 2], "text": odd}), tmp_path / "odd.parquet")
    bad, good = rows(str(tmp_path / "odd.parquet"))
    assert isinstance(bad, BadRow) and "column 'text' is not UTF-8" in bad.reason
    assert good == (2, {"n": 2, "text": "b"})


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parquet.write_table(pa.Table.from_arrays([["a"], ["b"]], ["x", "x"]), tmp_path / "x.parquet")
    with pytest.raises(CorpusError, match="two columns are called 'x'"):
        list(rows(str(tmp_path / "x.parquet")))


def test_a_folder_and_nothing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl", tmp_path / "none.parquet"):
        with pytest.raises(CorpusError, match=str(path)):
            list(rows(str(path)))


def test_rows_come_as_they_are_written(tmp_path: Path) -> None:
    """From a pipe: the first before there is a second."""
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    read = threading.Event()

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            file.write(b'{"text": "first"}\n')
            assert read.wait(10)
            file.write(b'{"text": "second"}\n')

    writer = threading.Thread(target=write)
    writer.start()
    found = rows(str(pipe))
    assert next(found) == (1, {"text": "first"})
    read.set()
    assert next(found) == (2, {"text": "second"})
    writer.join()


def test_texts_and_what_messages_say() -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert written(chat) == "a\n\nb"
    assert written([]) is None and written([{"content": "x"}]) is None and written(3) is None
    row: dict[str, Any] = {"output": 3, "text": "t", "completion": chat}
    assert text_of(row, ("output", "text")) == "t", "the first that is a text"
    assert written("\ud800") == "\ufffd"
    assert text_of({"messages": chat}, ("messages",)) == "b", "what the assistant says"
    with pytest.raises(LookupError, match="none of the role 'assistant'"):
        text_of({"messages": chat[:1]}, ("messages",))
    with pytest.raises(LookupError, match=r"no field 'x' or 'y' \(it has .*\); .* by --which"):
        text_of(row, ("x", "y"), "--which")
    with pytest.raises(LookupError, match="'output' holds int"):
        text_of(row, ("output",))


COMMANDS = [["inspect"], ["analyse", "parallelism"], ["curate", "check"]]


def run(words: list[str], stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sglang_multiverse.cli", *words]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_every_command_ends_alike(command: list[str], tmp_path: Path) -> None:
    """Exit codes, and that they read the same column of the same kinds of file."""
    good = tmp_path / "good.jsonl"
    good.write_text('{"completion": "plain"}\n')
    mixed, none, empty = (tmp_path / f"{name}.jsonl" for name in ("mixed", "none", "empty"))
    mixed.write_text(good.read_text() + "{\n")
    none.write_text('{"other": 1}\n')
    empty.write_text("\n")
    option = "--model-output" if command == ["curate", "check"] else "--json"
    codes = {
        (str(good), "nothing"): 0,
        (str(mixed), "nothing"): 0,
        (str(mixed), "unreadable"): 1,
        (str(none), "nothing"): 2,
        (str(empty), "nothing"): 2,
        (str(tmp_path / "absent.jsonl"), "nothing"): 2,
    }
    for (file, kind), code in codes.items():
        done = run([*command, file, option, "--fail-on", kind])
        assert done.returncode == code, (file, kind, done.stderr)
        assert b"Traceback" not in done.stderr
    piped = run([*command, "-", option], good.read_bytes())
    assert piped.returncode == 0, piped.stderr
