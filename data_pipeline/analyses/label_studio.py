"""The JSON of Label Studio: tasks out, annotated tasks in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIG = """\
<View>
  <Text name="question" value="$question"/>
  <Text name="excerpt" value="$excerpt"/>
  <Header value="Do these branches not need one another?"/>
  <Choices name="is_instance" toName="excerpt" choice="single-radio" required="true">
    <Choice value="yes"/>
    <Choice value="no"/>
  </Choices>
  <Header value="What follows needs all of them (collective) or goes on with one (selective)?"/>
  <Choices name="human_label" toName="excerpt" choice="single-radio">
    <Choice value="collective"/>
    <Choice value="selective"/>
  </Choices>
</View>
"""


def write(rows: Sequence[Mapping[str, Any]], file: Path, labelling: str = CONFIG) -> list[Path]:
    """Tasks, and the configuration ``labelling`` as ``.xml`` beside them."""
    tasks = [{"data": dict(row)} for row in rows]
    file.write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")
    config = file.with_suffix(".xml")
    config.write_text(labelling, encoding="utf-8")
    return [file, config]


def read(tasks: Any) -> Iterator[dict[str, Any]]:
    """One row per annotation of Label Studio's JSON export; a task without any gives one row that
    nobody has judged.

    Raises:
        ValueError: it is no such export.
    """
    if not isinstance(tasks, list):
        raise ValueError("expected a list of tasks, as Label Studio's JSON export has it")
    for task in tasks:
        done = [one for one in task.get("annotations", ()) if not one.get("was_cancelled")]
        if not done:
            yield dict(task["data"])
        for annotation in done:
            yield {**task["data"], **_answers(annotation), "annotator": _person(annotation)}


def _answers(annotation: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for one in annotation.get("result", ()):
        value = one.get("value", {})
        if said := value.get("choices") or value.get("text"):
            found[one["from_name"]] = said if isinstance(said, str) else said[0]
    return found


def _person(annotation: Mapping[str, Any]) -> str:
    by = annotation.get("completed_by", "")
    return str(by.get("email") or by.get("id")) if isinstance(by, dict) else str(by)
