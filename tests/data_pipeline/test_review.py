"""A corpus to people and back: blocks, formats, agreement."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sglang_multiverse.cli.curate import app
from sglang_multiverse.data_pipeline.review import argilla, blocks
from sglang_multiverse.data_pipeline.review.agreement import summarise
from sglang_multiverse.data_pipeline.review.files import Review, ReviewError, read, write
from sglang_multiverse.data_pipeline.teacher.cassette import Cassette

from .mutations import synthetic
from .test_export import fill_store

TEXTS = [(f"item-{n}", "What is it?", synthetic(n)) for n in range(4)]
UNITS = list(blocks.units(TEXTS))
INDEPENDENT = {"from_name": "independent"}
OUTS = ("tasks.json", "folder", "sheet.csv", "lines.jsonl")


def labelled(*result: dict[str, Any]) -> str:
    """One task of Label Studio's, annotated."""
    task = {"data": {"item": "x", "block": 1}, "annotations": [{"result": result}]}
    return json.dumps([task])


def answered(out: Path, person: str, said: dict[str, str]) -> Path:
    """``out`` as a person would give it back: ``said`` of every block, in the way of the format."""
    if out.is_dir():
        path = out / argilla.RECORDS
        records = json.loads(path.read_text("utf-8"))
        for record in records:
            record["responses"] = {k: [{"value": v, "user_id": person}] for k, v in said.items()}
        path.write_text(json.dumps(records), "utf-8")
    elif out.suffix == ".json":
        tasks = json.loads(out.read_text("utf-8"))
        for task in tasks:
            result = [
                {"from_name": k, "value": {"text": [v]} if k == "comment" else {"choices": [v]}}
                for k, v in said.items()
            ]
            task["annotations"] = [{"completed_by": {"email": person}, "result": result}]
        out.write_text(json.dumps(tasks), "utf-8")
    elif out.suffix == ".csv":
        with out.open(encoding="utf-8", newline="") as file:
            rows = [{**row, **said, "reviewer": person} for row in csv.DictReader(file)]
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        lines = [json.dumps({**row, **said, "reviewer": person}) for row in rows]
        out.write_text("\n".join(lines), "utf-8")
    return out


def test_a_unit_is_a_block_with_what_stands_before_it() -> None:
    assert len(UNITS) > 3 and len({unit.id for unit in UNITS}) == len(UNITS)
    text = {item: text for item, _, text in TEXTS}
    for unit in UNITS:
        assert unit.text in text[unit.item]
        assert "<Parallel>" in unit.text and unit.text.endswith("</Parallel>")
        assert unit.before.lstrip("…") in text[unit.item].split(unit.text)[0]


def test_a_sample_is_fair_and_repeatable() -> None:
    many = [blocks.Unit(str(n), 1, "", "", "") for n in range(40)]
    counts = dict.fromkeys((unit.item for unit in many), 0)
    for seed in range(400):
        for unit in blocks.sample(many, 10, seed):
            counts[unit.item] += 1
    assert all(60 <= count <= 140 for count in counts.values())
    assert blocks.sample(many, 10, 7) == blocks.sample(iter(many), 10, 7)
    assert blocks.sample(many, 100) == blocks.sample(many, None) == many


@pytest.mark.parametrize("name", OUTS)
def test_what_is_judged_comes_back(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    write(UNITS, out)
    untouched = read([out])
    assert [one.key for one in untouched] == [(unit.item, unit.block) for unit in UNITS]
    assert not any(one.answers for one in untouched)
    said = {"independent": "yes", "sound": "no", "comment": "the sum is missing"}
    found = read([answered(out, "ann@here", said)])
    assert len(found) == len(UNITS)
    for one in found:
        assert one.answers == {"independent": True, "sound": False}
        assert (one.reviewer, one.comment) == ("ann@here", "the sum is missing")


def test_agreement_by_hand() -> None:
    def said(person: str, verdicts: str) -> list[Review]:
        return [
            Review(str(n), 1, person, {"independent": one == "y"})
            for n, one in enumerate(verdicts)
            if one != " "
        ]

    row = summarise([*said("ann", "yyyynn"), *said("bob", "yynnn ")])
    one = row["questions"]["independent"]
    assert (one["judged"], one["well"], one["ties"]) == (6, 2, 2)
    assert one["doubted"] == ["2#1", "3#1", "4#1", "5#1"]
    (pair,) = one["agreement"]
    # Five by both, three the same; by chance 4/5·2/5 + 1/5·3/5 = 11/25.
    assert (pair["blocks"], pair["same"]) == (5, 3)
    assert pair["kappa"] == pytest.approx((3 / 5 - 11 / 25) / (1 - 11 / 25))
    assert row["questions"]["sound"]["judged"] == 0


def test_an_export_leaves_out_what_is_doubted(tmp_path: Path, light: list[Cassette]) -> None:
    import pyarrow.parquet as pq

    def export(name: str, *more: object) -> Any:
        words = ["export", tmp_path / name, "--store", tmp_path / "s", "--no-plots", *more]
        return CliRunner().invoke(app, list(map(str, words)))

    fill_store(tmp_path / "s", light)
    assert export("out").exit_code == 0
    (data,) = (tmp_path / "out" / "data").iterdir()
    ids = pq.read_table(data)["id"].to_pylist()
    sheet = tmp_path / "ann.csv"
    run = CliRunner().invoke(app, ["review", "export", str(data), str(sheet)])
    assert run.exit_code == 0, run.output
    with sheet.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["independent"] = "no" if row["item"] == ids[0] else "yes"
        row["sound"] = "no" if row["item"] == ids[1] else "yes"
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)

    run = export("kept", "--review", sheet)
    assert run.exit_code == 0, run.output
    assert "2 texts are doubted" in run.output
    for kind in ("data", "mixed"):
        kept = pq.read_table(tmp_path / "kept" / kind)["id"].to_pylist()
        assert set(kept) == set(ids[2:])
    assert "they doubt were left out" in (tmp_path / "kept" / "README.md").read_text()
    sheet.write_text("item,block,sound\n" + "".join(f"{item},1,no\n" for item in ids), "utf-8")
    run = export("none", "--review", sheet)
    assert run.exit_code == 2 and "nothing is left" in run.output
    sheet.write_text("item\n", "utf-8")
    assert "no block" in export("bad", "--review", sheet).output


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", "item,block,independent\nx,1,perhaps\n", "independent is 'perhaps'"),
        ("a.csv", "item,independent\nx,yes\n", "no column 'block'"),
        ("a.jsonl", "[1]\n", "row 1"),
        ("a.jsonl", "{\n", "a.jsonl"),
        ("a.json", '{"a": 1}', "a list of tasks"),
        ("a.jsonl", "", "no block"),
        ("a.csv", "item,block\n", "a.csv holds no block"),
        ("a.jsonl", '{"item": "x", "block": 1}\n5\n', "row 2: expected an object, got int"),
        ("a.jsonl", "[" * 100_000, "line 1 is nested too deep"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.csv", "item,block\nx,\n", "row 1: block is ''"),
        ("a.csv", "item,block\n,1\n", "row 1: item is empty"),
        ("a.jsonl", '{"item": "x", "block": 1.7}', "row 1: block is 1.7"),
        ("a.jsonl", '{"item": "x", "block": true}', "row 1: block is True"),
        ("a.csv", "item,block,item\nx,1,y\n", "two columns are called 'item'"),
        ("a.csv", "item,block\nx,1,2\n", "row 1 has more cells"),
        ("a.csv", 'item,block,sound\nx,1,"no\ny,1,no\n', "line 3: .*a quote that is opened"),
        ("a.csv", "item,block,text\nx,1,one\nx,1,two\n", "row 2: .*another text than in row 1"),
        ("a.json", "[1, 2]", "task 1: expected an object"),
        ("a.json", '[{"data": 1}]', "task 1: expected an object"),
        ("a.json", '[{"data": {}, "annotations": 5}]', "task 1: expected a list"),
        ("a.json", labelled({"value": {"choices": ["yes"]}}), "task 1: .*`from_name`"),
        ("a.json", labelled(INDEPENDENT | {"value": {"choices": ["yes", "no"]}}), "2 answers"),
        ("a.json", '[{"fields": {}, "responses": {}, "metadata": {}}]', "record 1: no 'item'"),
        (
            "a.json",
            '[{"fields": {}, "responses": 5, "metadata": {"item": 1, "block": 1}}]',
            "record 1: .*Dataset.to_disk",
        ),
        ("none.csv", None, "No such file"),
    ],
)
def test_files_that_cannot_be_used(
    name: str, content: str | None, why: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(ReviewError, match=why):
        read([tmp_path / name])


def sheet(path: Path, *rows: dict[str, Any]) -> Path:
    """JSON lines of ``rows``, each of block 1 of item ``x`` where nothing else is said."""
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps({"item": "x", "block": 1, **row}) for row in rows]
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.mark.parametrize(
    ("said", "means"),
    [(True, True), (False, False), (1, True), (0, False), (0.0, False), ("FALSE", False),
     ("Yes ", True), ("", None), (None, None)],
)  # fmt: skip
def test_what_an_answer_may_be(said: Any, means: bool | None, tmp_path: Path) -> None:
    (one,) = read([sheet(tmp_path / "a.jsonl", {"independent": said})])
    assert one.answers.get("independent") is means


def test_files_of_one_name_are_of_two_people(tmp_path: Path) -> None:
    def people(*names: str) -> list[str]:
        paths = [sheet(tmp_path / name, {"sound": "yes"}) for name in names]
        return [one.reviewer for one in read(paths)]

    assert people("ann/r.jsonl", "bob/r.jsonl", "c.jsonl") == ["ann/r", "bob/r", "c"]
    assert people("ann/r.jsonl", "ann/r.txt") == ["ann/r.jsonl", "ann/r.txt"]
    assert people("ann/r.jsonl", "ann/r.jsonl") == ["r"], "the same file twice"


def test_what_is_not_answered_is_no_judgement(tmp_path: Path) -> None:
    ann: dict[str, Any] = {"reviewer": "ann"}
    full = sheet(tmp_path / "full.jsonl", {**ann, "independent": "yes", "comment": "well"})
    blank = sheet(tmp_path / "blank.jsonl", ann)
    half = sheet(tmp_path / "half.jsonl", {**ann, "independent": "no", "sound": "yes"})
    (one,) = read([full, blank])
    assert (one.answers, one.comment) == ({"independent": True}, "well")
    (one,) = read([full, half, blank])
    assert (one.answers, one.comment) == ({"independent": False, "sound": True}, "well")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", ",;\t")
def test_a_sheet_as_a_spreadsheet_saves_it(separator: str, encoding: str, tmp_path: Path) -> None:
    out = tmp_path / "a.CSV"
    lines = [("item", "block", "independent"), ("x", "1.0", "NO"), ("", "", ""), ("ü", "2", "")]
    out.write_text("\r\n".join(map(separator.join, lines)), encoding)
    found = read([out])
    assert [(one.key, one.answers) for one in found] == [
        (("x", 1), {"independent": False}),
        (("ü", 2), {}),
    ]


def test_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("item,block\nü,1\n".encode("cp1252"))
    with pytest.raises(ReviewError, match=r"a\.csv: not UTF-8: .*CSV UTF-8"):
        read([tmp_path / "a.csv"])


def test_a_block_of_any_length_comes_back(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    write([blocks.Unit("x", 1, "q", "", "word " * 50_000)], out)
    assert read([answered(out, "ann", {"sound": "no"})])[0].answers == {"sound": False}


def test_a_sheet_says_what_to_write(tmp_path: Path) -> None:
    write(UNITS, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        note = next(csv.DictReader(file))
    assert all(note[name] == f"yes or no: {asked}" for name, asked in blocks.QUESTIONS.items())
    assert "your name" in note["reviewer"]
    assert len(read([tmp_path / "a.csv"])) == len(UNITS)


def test_label_studio_s_other_ways(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    row = {"id": 4, "item": "x", "block": 1, "independent": "no", "annotator": 7}
    out.write_text(json.dumps([row | {"comment": ["one", "two"]}]), "utf-8")  # JSON-MIN
    (one,) = read([out])
    assert (one.reviewer, one.answers) == ("7", {"independent": False})
    assert one.comment == "one\ntwo"
    out.write_text('[{"data": {"item": "x", "block": 1}, "annotations": null}]', "utf-8")
    assert read([out])[0].answers == {}
    out.write_text(labelled({"type": "relation", "from_id": "a", "to_id": "b"}), "utf-8")
    assert read([out])[0].answers == {}


def test_argilla_s_other_ways(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    record: dict[str, Any] = {"fields": {}, "metadata": {"item": "x", "block": 1}}
    out.write_text(json.dumps([record | {"responses": None}]), "utf-8")
    assert read([out])[0].answers == {}
    said = [
        {"user_id": "u", "value": "yes", "status": "discarded"},
        {"user_id": "v", "value": "no"},
    ]
    out.write_text(json.dumps([record | {"responses": {"sound": said}}]), "utf-8")
    assert [(one.reviewer, one.answers) for one in read([out])] == [("v", {"sound": False})]


def test_a_configuration_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "keep.xml").write_text("mine", "utf-8")
    with pytest.raises(ReviewError, match=r"keep\.xml is there already"):
        write(UNITS, tmp_path / "keep.json")
    assert (tmp_path / "keep.xml").read_text("utf-8") == "mine"
    assert not (tmp_path / "keep.json").exists()


@pytest.mark.parametrize("name", OUTS)
def test_what_cannot_be_written_leaves_nothing(name: str, tmp_path: Path) -> None:
    half = blocks.Unit("\ud83d", 1, "", "", "")
    with pytest.raises(UnicodeEncodeError):
        write([*UNITS, half], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_nothing_judged_is_written_over(tmp_path: Path) -> None:
    for name in OUTS:
        write(UNITS, tmp_path / name)
        with pytest.raises(ReviewError, match="there already"):
            write(UNITS, tmp_path / name)
    with pytest.raises(ReviewError, match="Label Studio"):
        write(UNITS, tmp_path / "tasks.xlsx")


def test_by_the_command_line(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows: list[Any] = [{"id": item, "question": q, "text": text} for item, q, text in TEXTS]
    corpus.write_text("\n".join(map(json.dumps, [*rows, {"id": "empty"}])), "utf-8")
    out = tmp_path / "sheet.csv"
    run = CliRunner().invoke(app, ["review", "export", str(corpus), str(out), "--sample", "3"])
    assert run.exit_code == 0, run.output
    assert "3 blocks of" in run.output
    answered(out, "ann", {"independent": "yes", "sound": "yes"})
    run = CliRunner().invoke(app, ["review", "agreement", str(out), "--json"])
    assert json.loads(run.output)["questions"]["independent"]["well"] == 3
    run = CliRunner().invoke(app, ["review", "agreement", str(out)])
    assert "independent: 3 of 3 (100.0%" in run.output
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"text": "no block"}\n', "utf-8")
    run = CliRunner().invoke(app, ["review", "export", str(plain), str(tmp_path / "b.csv")])
    assert run.exit_code == 2 and "nothing to judge" in run.output


def export(rows: list[dict[str, Any]], folder: Path, *options: str) -> tuple[Any, Path]:
    """`review export` of ``rows``: how it ended, and what it wrote."""
    corpus, out = folder / "corpus.jsonl", folder / "out.jsonl"
    corpus.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return CliRunner().invoke(app, ["review", "export", str(corpus), str(out), *options]), out


def test_rows_of_one_id_are_told_apart(tmp_path: Path) -> None:
    rows = [{"id": "same", "text": synthetic(n)} for n in (0, 1, 0, 2)]
    plain = {"id": "same", "text": "no block"}
    run, out = export([plain, *rows, {"id": "same#2", "text": synthetic(3)}], tmp_path)
    assert run.exit_code == 0, run.output
    assert "1 rows hold a text that an earlier row holds" in run.output
    assert "the second of 'same' is 'same#2'" in run.output
    found = read([out])
    assert len({one.key for one in found}) == len(found)
    assert {one.item for one in found} == {"same", "same#2", "same#3", "same#2#2"}


def test_half_a_character_in_an_id(tmp_path: Path) -> None:
    run, out = export([{"id": "\ud83d", "question": "\ud83d", "text": synthetic(0)}], tmp_path)
    assert run.exit_code == 0 and read([out])[0].item == "\ufffd"


def test_a_wrong_field_is_told_as_such(tmp_path: Path) -> None:
    run, _ = export([{"id": n, "text": synthetic(0)} for n in range(9)], tmp_path, "--text", "x")
    assert run.exit_code == 2
    assert "no field 'x'" in run.output and "--text" in run.output
    assert "8 more, " in run.output and "no row holds a text" in run.output
