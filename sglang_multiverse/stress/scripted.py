"""A custom logit processor that makes a served model write what a test wants.

SGLang hands it the logits of every row that samples, with the row's request. It decides the token,
forces it, and appends the logits the model would have sampled from to a file, so that a test can
compare them with a reference forward pass over the finished text.

Where a row stands is told by its *key*: ``""`` for the trunk, then for every fork on the way
``/{own tokens of the parent before its paths}.{index of the path}``. A parser finds the same keys
in the finished text (:func:`starts`), which is how the two are matched.

The server imports this module by name, and must run with ``--enable-custom-logit-processor``.
Subclasses SGLang's public ``CustomLogitProcessor``. Verified on SGLang 0.5.23.
"""

from __future__ import annotations

import functools
import pickle
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

from ..sequencer import UNLIMITED, Limits
from ..structure import Block, Trace, parse

if TYPE_CHECKING:
    from ..engine.tree import Node


#: Limits of the answer; up to where in the text which others hold; where tags are structure.
Bounds = tuple[Limits, tuple[int, Limits], tuple[tuple[int, int], ...]]
_END = 1 << 62


class Forced(CustomLogitProcessor):  # type: ignore[misc]
    """Reads ``custom_params``: ``record`` (a file), and one of ``script`` (ids of prompt and
    answer; after it ``eos``, or with ``then`` any of ``words``, sampled) or ``soup`` (a seed, see
    :func:`soup_token`). A request with neither keeps the model's logits."""

    def __call__(self, logits: Any, custom_param_list: Any) -> Any:
        for row, params in zip(logits, custom_param_list, strict=True):
            if not isinstance(params, dict) or not params.keys() & {"script", "soup"}:
                continue
            from ..patches.rows.branch import Scratch  # imports torch

            request = params["__req__"]
            mark = request.__dict__.get("multiverse")
            if isinstance(mark, Scratch):  # a row that only writes KV
                continue
            if mark is None:  # the request has switched fork and join off
                key, own, bounds = "", request.kv.kv_committed_len, None
            else:
                # With overlap the newest token is not in node.tokens yet; the row's length is.
                key, own = key_of(mark.node), request.kv.kv_committed_len - mark.node.base
                tree = mark.tree
                spans = (*map(tuple, tree.spans), (tree.prompt_len, _END))
                bounds = tree.limits, (tree.prompt_len, tree.prompt_limits), spans
            allowed = self.choose(params, key, own, bounds)
            if "record" in params:
                with open(params["record"], "ab") as file:
                    pickle.dump((key, own, allowed[0], row.float().cpu().numpy()), file)
            kept = row[allowed].clone()
            row.fill_(float("-inf"))
            row[allowed] = kept if len(allowed) > 1 else 0.0
        return logits

    @staticmethod
    def choose(params: Any, key: str, own: int, bounds: Bounds | None = None) -> list[int]:
        """Ids the row at ``own`` of sequence ``key`` may sample.

        Args:
            bounds: of the request: which of the script's goals fork is theirs to say.
        """
        if "script" not in params:
            return [soup_token(params["soup"], key, own, params)]
        script = params["script"]
        at = own
        if key:
            at += _starts(tuple(script), *(bounds or (UNLIMITED, None, None))).get(key, len(script))
        if at < len(script):
            return [script[at]]
        return params["words"] if "then" in params else [params["eos"]]


@functools.cache
def _starts(
    script: tuple[int, ...],
    limits: Limits,
    earlier: tuple[int, Limits] | None,
    spans: tuple[tuple[int, int], ...] | None,
) -> dict[str, int]:
    from ..patches.active import coordinator

    active = coordinator()
    assert active is not None
    where = None if spans is None else list(spans)
    return starts(parse(script, active.dialect, limits=limits, earlier=earlier, spans=where))


_WINDOW = 12


def soup_token(seed: int | str, key: str, own: int, params: Mapping[str, Any]) -> int:
    """A token by place alone: windows of whole block openings, of words, and of tags at random.

    Args:
        params: ``opening`` (ids of a whole block opening), ``words``, ``closers``, ``tags`` (ids)
            and ``eos``; ``shares``, where given, are the upper ends on [0, 1) of a window of
            openings, of words, and of words and closers, (0.4, 0.6, 0.8) by default; the rest
            are tags. ``window`` is the length of a window in tokens, 12 by default.
    """
    window, at = divmod(own, params.get("window", _WINDOW))
    roll = random.Random(f"{seed}{key}:{window}").random()
    rng = random.Random(f"{seed}{key}:{own}")
    opening = params["opening"]
    opens, plain, closing = params.get("shares", (0.4, 0.6, 0.8))
    if roll < opens and at < len(opening):
        token: int = opening[at]
    elif roll > closing:
        token = rng.choice([*params["tags"], params["eos"]])
    else:
        token = rng.choice([*params["words"], *(params["closers"] if roll > plain else ())])
    return token


def key_of(node: Node) -> str:
    """Where ``node`` stands, by the lengths of what stands before it."""
    parts = []
    while node.parent is not None:
        parts.append(f"/{len(node.parent.tokens)}.{node.index}")
        node = node.parent
    return "".join(reversed(parts))


def starts(trace: Trace) -> dict[str, int]:
    """Key of every sequence of a text → offset of its first token."""
    found = {"": 0}

    def walk(blocks: list[Block], key: str, start: int) -> None:
        for block in blocks:
            for i, path in enumerate(block.paths):
                inner = f"{key}/{block.region_start - start}.{i}"
                found[inner] = path.start
                walk(path.blocks, inner, path.start)

    walk(trace.blocks, "", 0)
    return found


def read_rows(path: str) -> list[tuple[str, int, int, Any]]:
    """``(key, own index of the token sampled, the token, logits)`` of every recorded row.

    A file that is still being written may end in the middle of a row, which is left out.
    """
    rows = []
    with open(path, "rb") as file:
        while True:
            try:
                rows.append(pickle.load(file))
            except EOFError:
                return rows
            except pickle.UnpicklingError:
                if file.read(1):
                    raise
                return rows
