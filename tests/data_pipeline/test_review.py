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
OUTS = ("tasks.json", "folder", "sheet.csv", "lines.jsonl")


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
