"""What a run does to every record: everything its outcome depends on, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sglang_multiverse.lexer import lex

from .gates import CURATION, GateOptions
from .sampling.options import Draws
from .teacher.call import Sampling, digest
from .teacher.prompt import Prompts

#: Part of every call's key: raise one where a stage asks or reads differently.
STAGE_VERSIONS = {
    "outline": "1",
    "fill": "2",
    "frame": "2",
    "rewrite": "3",
    "doubts": "1",
    "judge": "1",
    "assemble": "1",
    "sample": "1",
}


#: See :attr:`Recipe.on_failed_rewrite`.
OnFailedRewrite = Literal["flatten", "keep", "reject"]

#: See :attr:`Recipe.judge`.
Judging = Literal["never", "doubtful", "every"]


def count_pieces(text: str) -> int:
    """Pieces of text, close to the tokens of a byte-level BPE vocabulary."""
    return len(lex(text).pieces)


@dataclass(frozen=True)
class TokenCounter:
    """Counts by the ``tokenizer.json`` of ``folder``, which is read anew in another process."""

    folder: Path

    @cached_property
    def _encode(self) -> Callable[[str], list[int]]:
        from sglang_multiverse.cli.tokenizer import TokenizerFile
        from sglang_multiverse.dialect import Dialect
        from sglang_multiverse.lexer import encode

        tokenizer = TokenizerFile(self.folder)
        dialect = Dialect.from_tokenizer(tokenizer)
        return lambda text: encode(text, tokenizer, dialect)

    def __call__(self, text: str) -> int:
        return len(self._encode(text))

    def __reduce__(self) -> tuple[type[TokenCounter], tuple[Path]]:
        return TokenCounter, (self.folder,)


def counter(folder: Path | None) -> tuple[Callable[[str], int], str]:
    """What counts the tokens of a text, and its name: the ``tokenizer.json`` of ``folder``, or
    pieces of text.

    Raises:
        OSError, ValueError: the folder holds none that can be used.
    """
    if folder is None:
        return count_pieces, "pieces"
    count = TokenCounter(folder)
    count("")
    content = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    return count, f"{folder.name} {content[:12]}"


@dataclass(frozen=True)
class Recipe:
    """How records are curated.

    Attributes:
        attempts: times a task is given, the first included, before its item is rejected.
        on_failed_rewrite: what becomes of a block that cannot be rewritten, or whose paths need one
            another: ``flatten`` it to the source's own sentences, ``keep`` it, or ``reject`` the
            item. The first two leave a note.
        room: times a reply's ``max_tokens`` is doubled, at most, after one that was cut.
        right_answers: reject chains that come to another answer than the dataset's, before a call.
        judge: what the model judges. ``doubtful``: whether a rewritten block says what it said,
            where words leave doubt; what it passes is kept. ``every``: also of every block whether
            its paths can stand without their siblings. ``never``: a doubt counts as a fault.
        benefit: undo blocks that do not shorten the critical path by more than this many tokens;
            None leaves them, as the published data does.
        draws: answers are drawn from the model instead, see :mod:`.sampling`.
        count_tokens, tokenizer: the counter of the benefit gate and of parallelism, and its name.
    """

    model: str
    sampling: Sampling = field(default_factory=Sampling)
    prompts: Prompts = field(default_factory=Prompts.load)
    gates: GateOptions = CURATION
    attempts: int = 3
    room: int = 1
    on_failed_rewrite: OnFailedRewrite = "flatten"
    right_answers: bool = False
    judge: Judging = "doubtful"
    benefit: int | None = None
    draws: Draws | None = None
    count_tokens: Callable[[str], int] = count_pieces
    tokenizer: str = "pieces"

    def row(self) -> dict[str, Any]:
        """A JSON object that says all of it, prompts by version and hash."""
        return {
            "model": self.model,
            "sampling": self.sampling.fields(),
            "prompts": {
                name: {"version": prompt.version, "hash": prompt.hash}
                for name, prompt in sorted(self.prompts.by_name.items())
            },
            "stages": STAGE_VERSIONS,
            "gates": asdict(self.gates),
            "attempts": self.attempts,
            "room": self.room,
            "on_failed_rewrite": self.on_failed_rewrite,
            "right_answers": self.right_answers,
            "judge": self.judge,
            "benefit": self.benefit,
            "tokenizer": self.tokenizer,
            **({"draws": self.draws.row()} if self.draws is not None else {}),
        }

    @cached_property
    def fingerprint(self) -> str:
        """Changes with anything an outcome depends on; names the run in the store."""
        return digest(self.row())[:16]
