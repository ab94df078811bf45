"""Whatever training refuses a dry run refuses, in the same line; and no refusal goes untried."""

from __future__ import annotations

import ast
import re
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from sglang_multiverse import training
from sglang_multiverse.training import sft

from .refusals import CASES, SHORT, Room

ROOT = Path(training.__file__).parent

#: Refusals that no config and no data of ``multiverse sft`` can cause, by file and function.
EXEMPT = {
    ("attention.py", "_derive", ""): "where a hook derives the layout; the collator gives it here",
    ("attention.py", "_row", ""): "where a hook derives the layout; the collator gives it here",
    ("attention.py", "_lay_out", ""): "calls in Python; the collator gives what belongs together",
    ("attention.py", "check_call", "has shape"): "the collator gives one integer a token",
    ("attention.py", "enable_multiverse_attention", ""): "PEFT methods and derivation in Python",
    ("attention.py", "check_model", "by itself"): "an older class; test_segments.py makes one",
    ("attention.py", "_attend", "changes its"): "a cap is refused before; test_segments.py has one",
    ("attention.py", "_attend", "hand on"): "no known model; test_segments.py makes one",
    ("attention.py", "_attend", "str(error)"): "kernels that need a GPU to be missing",
    ("segments.py", "segment_attention", ""): "kernels that need a GPU to be missing",
    ("checkpoint.py", "load", ""): "prepare-model and merge-adapter",
    ("checkpoint.py", "load_tokenizer", ""): "prepare-model and merge-adapter",
    ("checkpoint.py", "check_place", ""): "prepare-model and merge-adapter",
    ("tokens.py", "tag_rows", ""): "prepare-model",
    ("tokens.py", "_tables", ""): "prepare-model",
    ("tokens.py", "add_tags", ""): "prepare-model",
    ("lora.py", "merge_adapter", ""): "merge-adapter",
    ("lora.py", "with_tag_rows", "LoraConfig"): "another PEFT method, in Python",
    ("lora.py", "with_tag_rows", "tags up to"): "check_fit says so before",
    (
        "lora.py",
        "with_tag_rows",
        "has a bias",
    ): "no model of transformers here; test_lora.py makes one",
    (
        "preparation.py",
        "check_filled",
        "",
    ): "datasets in Python; files are refused as they are read",
    ("collator.py", "check_sharing", ""): "said again by the config (trainer.py, __post_init__)",
    ("modes.py", "_answers", ""): "rows.py asks for these columns before",
    ("modes.py", "with_prompt_mode", ""): "preparation.py asks for a user's turn before",
    ("checks.py", "check_trainer", "recompute"): "every model that attends by order can",
    ("trainer.py", "__post_init__", "is none of"): "the command line asks for a choice before",
    ("trainer.py", "__init__", "collator lays"): "an argument in Python",
    ("trainer.py", "__init__", "args must be"): "an argument in Python",
    ("trainer.py", "__init__", "cp_size"): "needs several processes",
}


#: What raises for its callers, each of which is a refusal of its own.
FOR_THE_CALLER = {("refusals.py", "told"), ("rows.py", "refuse")}


@dataclass(frozen=True)
class Refusal:
    """One line, and where it was made: file and line number."""

    line: str
    site: tuple[str, int]


def refusal(arguments: list[str]) -> Refusal:
    """What ``multiverse sft`` says to ``arguments``."""
    with pytest.raises(SystemExit) as ended:
        sft.main(arguments)
    cause = ended.value.__cause__
    assert cause is not None, f"argparse itself ended the run: {ended.value}"
    frames = [
        frame
        for frame in traceback.extract_tb(cause.__traceback__)
        if Path(frame.filename).is_relative_to(ROOT)
    ]
    while (Path(frames[-1].filename).name, frames[-1].name) in FOR_THE_CALLER:
        frames.pop()
    return Refusal(str(ended.value), (Path(frames[-1].filename).name, int(frames[-1].lineno or 0)))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory):
    """``both(name)``: what the dry run says and what training says, each asked once."""

    @cache
    def ask(name: str) -> tuple[Refusal, Refusal]:
        folder = tmp_path_factory.mktemp("case")
        given = CASES[name](Room(folder))
        short = [word for key, value in SHORT.items() for word in (f"--{key}", str(value))]
        base = ["--output_dir", str(folder / "out")]
        if "--config" not in given:
            base = ["--config", "tiny", *short, *base]
        elif given[-1] == "--config":
            base, given = [], [*base, *given]
        return refusal([*base, "--dry_run", "true", *given]), refusal([*base, *given])

    return ask


@pytest.mark.parametrize("name", CASES)
def test_a_dry_run_refuses_what_training_refuses_in_the_same_line(both, name):
    rehearsed, trained = both(name)
    assert rehearsed.line == trained.line
    assert rehearsed.line.startswith("multiverse sft: ")
    assert "\n" not in rehearsed.line
    assert re.search(REMEDY, rehearsed.line), f"no remedy: {rehearsed.line}"


#: Words that begin what to do.
REMEDY = (
    r"\b(set|use|give|name|choose|take|leave|write|make|run|train|rename|load|install|remove|see|"
    r"join|put|shorten|raise|repair|takes|needs|did you mean|one of|looked in|lists)\b|"
    r"`(multiverse|accelerate) "
)


def test_every_refusal_in_the_code_has_a_case(both):
    """A new ``raise`` wants a case in ``refusals.py``, or a reason in ``EXEMPT``."""
    tried = {both(name)[0].site for name in CASES}
    untried = [
        (file, function, text)
        for file, function, first, last, text in sites()
        if not any(file == at and first <= number <= last for at, number in tried)
    ]

    def fits(exempt: tuple[str, str, str], site: tuple[str, str, str]) -> bool:
        return exempt[:2] == site[:2] and exempt[2] in site[2]

    assert [one for one in untried if not any(fits(key, one) for key in EXEMPT)] == []
    idle = [key for key in EXEMPT if not any(fits(key, one) for one in untried)]
    assert idle == [], "exempt, and tried all the same or gone"


def sites() -> list[tuple[str, str, int, int, str]]:
    """Every statement that refuses: file, function, first and last line number, and its text."""
    found = []
    for path in [*ROOT.glob("*.py"), *(ROOT / "preflight").glob("*.py")]:
        source = path.read_text(encoding="utf-8")
        for function in ast.walk(ast.parse(source)):
            if not isinstance(function, ast.FunctionDef):
                continue
            if (path.name, function.name) in FOR_THE_CALLER:
                continue
            for node in _own(function):
                if _refuses(node):
                    text = " ".join((ast.get_source_segment(source, node) or "").split())
                    last = node.body[0].lineno if isinstance(node, ast.With) else node.end_lineno
                    found.append((path.name, function.name, node.lineno, last, text))
    return found


def _own(function: ast.AST):
    """The nodes of a function, those of functions inside it left out."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield child
            yield from _own(child)


def _refuses(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        name = getattr(node.exc.func, "id", "")
        return name.endswith("Error") and name not in ("AttributeError",)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return getattr(node.value.func, "id", "") == "refuse"
    if isinstance(node, ast.With):
        return any("told(" in ast.unparse(item) for item in node.items)
    return False
