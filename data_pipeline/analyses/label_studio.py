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


def places(file: Path) -> list[Path]:
    """What an export to ``file`` writes: of tasks, the configuration beside them, too."""
    return [file, file.with_suffix(".xml")] if file.suffix == ".json" else [file]


def read(tasks: Any) -> Iterator[dict[str, Any]]:
    """One row per annotation of Label Studio's JSON export, and of its JSON-MIN; a task without any
    gives one row that nobody has judged.

    Raises:
        ValueError: it is no such export; the message names the task.
    """
    if not isinstance(tasks, list):
        raise ValueError("expected a list of tasks, as Label Studio's JSON export has it")
    for number, task in enumerate(tasks, start=1):
        try:
            yield from _rows(_object(task))
        except ValueError as error:
            raise ValueError(f"task {number}: {error}") from error


def _rows(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if "data" not in task:  # JSON-MIN: data and answers of one annotation, side by side
        yield {name: _said(name, value) for name, value in task.items()}
        return
    data = _object(task["data"])
    done = [one for one in _objects(task.get("annotations")) if not one.get("was_cancelled")]
    if not done:
        yield dict(data)
    for annotation in done:
        yield {**data, **_answers(annotation), "annotator": _person(annotation)}


def _answers(annotation: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for one in _objects(annotation.get("result")):
        value = one.get("value")
        if not isinstance(value, Mapping):  # a relation, say
            continue
        if said := value.get("choices") or value.get("text"):
            if "from_name" not in one:
                raise ValueError("an answer without `from_name`; export it as JSON again")
            found[one["from_name"]] = _said(one["from_name"], said)
    return found


def _said(name: str, value: Any) -> Any:
    """One answer; of a JSON-MIN's more, and of a comment's, all."""
    if isinstance(value, Mapping) and "choices" in value:
        value = value["choices"]
    if not isinstance(value, list):
        return value
    if len(value) > 1 and name != "comment":
        raise ValueError(f"{name} has {len(value)} answers, {', '.join(map(str, value))}; keep one")
    return "\n".join(map(str, value))


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return value


def _objects(value: Any) -> list[Mapping[str, Any]]:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"expected a list, got {type(value).__name__}")
    return [_object(one) for one in value or []]


def _person(annotation: Mapping[str, Any]) -> str:
    by = annotation.get("completed_by", "")
    said = (by.get("email") or by.get("id")) if isinstance(by, Mapping) else by
    return "" if said is None else str(said)
