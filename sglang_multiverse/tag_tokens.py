"""Tag tokens of a Hugging Face tokenizer as text: ``skip_special_tokens`` does not hide them.

Whether an added token is *special* decides one thing only: whether decoding may leave it out. The
tags of a dialect are part of the answer, so here they are added tokens that are not special. Ids,
encoding and the decoding of every other token stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .dialect import SPECS, DialectSpec


def complete(tokenizer: Any, specs: Iterable[DialectSpec] = SPECS) -> list[str]:
    """The tags of every dialect that ``tokenizer`` holds whole."""
    vocabulary = tokenizer.get_vocab()
    return [tag for spec in specs if all(t in vocabulary for t in spec.tags) for tag in spec.tags]


def tags_as_text(tokenizer: Any, tags: Iterable[str] | None = None) -> list[str]:
    """Make ``tags`` added tokens of ``tokenizer`` that are not special, in place.

    The backend cannot take back that a token is special, so it is made anew from its own JSON,
    which takes as long as loading it did. It is left alone where nothing changes.

    Args:
        tokenizer: a ``transformers`` tokenizer over the ``tokenizers`` library.
        tags: default: those of every dialect the tokenizer holds whole.

    Returns:
        The tags that were special until now.

    Raises:
        TypeError: a tokenizer of another kind calls tags special.
    """
    wanted = set(complete(tokenizer) if tags is None else tags)
    listed = wanted.intersection(tokenizer.all_special_tokens)
    backend: Any = getattr(tokenizer, "_tokenizer", None)
    known = backend.get_added_tokens_decoder().values() if _rebuilds(backend) else ()
    changed = listed | {token.content for token in known if token.special} & wanted
    if not changed:
        return []
    if not _rebuilds(backend):
        raise TypeError(
            f"{type(tokenizer).__name__} calls {', '.join(sorted(changed))} special and is not a "
            "tokenizer of the tokenizers library; load it with use_fast, or leave out "
            "--tokenizer-mode slow and --tokenizer-backend fastokens"
        )
    state = json.loads(backend.to_str())
    for token in state["added_tokens"]:
        if token["content"] in changed:
            token["special"] = False
    made = type(backend).from_str(json.dumps(state))
    made.encode_special_tokens = backend.encode_special_tokens
    tokenizer._tokenizer = made
    tokenizer._extra_special_tokens = [
        token for token in tokenizer._extra_special_tokens if str(token) not in changed
    ]
    return sorted(changed)


def _rebuilds(backend: Any) -> bool:
    return type(backend).__module__.partition(".")[0] == "tokenizers"
