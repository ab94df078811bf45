"""Events as anybody may send them: read alike by Python and by the page, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sglang_multiverse.view.checked import EventError, checked
from sglang_multiverse.view.lanes import Timeline
from sglang_multiverse.view.page import page
from sglang_multiverse.view.perfetto import perfetto

from .test_timeline import carried

TEXT: dict[str, Any] = {"kind": "text", "path": "", "position": 0, "tokens": 1, "text": "a"}
FORK: dict[str, Any] = {"kind": "fork", "path": "", "position": 1, "paths": [{"path": "1.1"}]}
END: dict[str, Any] = {"kind": "end", "path": "", "position": 1}
NET = "multiverse_net_parallelism"


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (3, "it is 3, not an object"),
        (None, "it is null, not an object"),
        ({}, "kind is missing"),
        (TEXT | {"kind": "dance"}, 'kind is "dance", not one of text, fork'),
        (TEXT | {"kind": ["text"]}, "kind is"),
        (TEXT | {"path": 1}, "path is 1, not text"),
        (TEXT | {"path": None}, "path is null, not text"),
        ({"kind": "join", "path": ""}, "position is missing, not a whole number"),
        (TEXT | {"position": "0"}, 'position is "0", not a whole number'),
        (TEXT | {"position": True}, "position is true"),
        (TEXT | {"position": 0.5}, "position is 0.5"),
        (TEXT | {"position": -1}, "position is -1"),
        (TEXT | {"position": float("nan")}, "position is NaN"),
        (TEXT | {"position": 10**400}, "position is 1000000000"),
        (TEXT | {"tokens": float("inf")}, "tokens is Infinity"),
        (TEXT | {"tokens": 10**5000}, "tokens is some int"),
        (TEXT | {"tokens": -1}, "tokens is -1"),
        (TEXT | {"text": None}, "text is null, not text"),
        (TEXT | {"text": ["a"]}, "text is"),
        (TEXT | {"t": "1"}, 't is "1", not seconds'),
        (TEXT | {"t": float("nan")}, "t is NaN"),
        (TEXT | {"t": float("inf")}, "t is Infinity"),
        (TEXT | {"t": -1}, "t is -1"),
        (FORK | {"paths": {}}, "paths is {}, not a list"),
        (FORK | {"paths": []}, r"paths is \[\], not a list of one path or more"),
        (FORK | {"paths": [3]}, "path 1 of paths is 3"),
        (FORK | {"paths": [{"path": "1.1"}, {}]}, "path 2 of paths is null"),
        (
            FORK | {"paths": [{"path": "\x1b[31m"}]},
            r'path 1 of paths is "\\u001b\[31m", not a name',
        ),
        (FORK | {"paths": [{"path": "1.1.1.1"}]}, 'path 1 of paths is "1.1.1.1", not a name'),
        (FORK | {"paths": [{"path": "1.1", "label": 7}]}, "the label of path 1 of paths is 7"),
        (END | {"finish_reason": {"type": "stop"}}, "finish_reason is"),
        (END | {"figures": [1]}, "figures is"),
        (END | {"figures": {NET: "2"}}, f'{NET} of figures is "2", not a number'),
        (END | {"figures": {NET: True}}, f"{NET} of figures is true"),
        (END | {"figures": {"any": float("nan")}}, "any of figures is NaN"),
    ],
)
def test_an_odd_value_is_named_with_its_event_and_field(event: Any, says: str) -> None:
    with pytest.raises(EventError, match=f"^event 2: {says}") as error:
        checked([TEXT, event])
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("event", "read"),
    [
        (TEXT | {"position": 3.0, "tokens": 2.0, "t": 1}, {"position": 3, "tokens": 2, "t": 1.0}),
        (
            FORK | {"paths": [{"path": "1.1", "label": None}]},
            {"paths": [{"path": "1.1", "label": ""}]},
        ),
        (END | {"finish_reason": None, "figures": None}, {}),
        (TEXT | {"paths": 3, "unknown": float("nan")}, {}),
        (
            END | {"figures": {NET: None, "multiverse_injected": [[1, 2]], "a": "b", "c": 2.5}},
            {"figures": {"a": "b", "c": 2.5}},
        ),
    ],
)
def test_what_is_one_thing_for_both_readers_stays(event: Any, read: dict[str, Any]) -> None:
    (found,) = checked([event])
    assert read.items() <= found.items()
    assert "unknown" not in found
    assert checked([found]) == [found]
    html = page(Timeline([TEXT, event | {"position": 3}]), "odd")
    json.loads(carried(html), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    profile = perfetto(Timeline([TEXT, event | {"position": 3}]), "odd")
    json.loads(profile, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
