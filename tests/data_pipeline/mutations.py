"""Corruptions of well-formed texts, each with the codes that must, and that may, follow from it.

The kinds are those seen in real outputs and in faulty curation: lost, doubled and misplaced tags,
dropped, doubled and misnumbered paths, lost and changed text, and paths that lean on a sibling.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sglang_multiverse.data_pipeline.gates.meaning.answer import final_answer
from sglang_multiverse.data_pipeline.gates.text.located import Located, LocatedBlock, Part
from sglang_multiverse.data_pipeline.source.sentences import split_sentences, trimmed
from sglang_multiverse.flatten import flatten_text
from sglang_multiverse.text import Block, Conclusion, Document, Outline, Path, serialise

Corrupt = Callable[[Located, random.Random], str | None]


@dataclass(frozen=True)
class Mutation:
    """One kind of corruption.

    Attributes:
        codes: one of these must be found.
        gate: by this gate.
        also: codes that may follow from it, too.
        corrupt: the corrupted text; None where the text holds nothing of the kind.
    """

    kind: str
    gate: str
    codes: frozenset[str]
    also: frozenset[str]
    corrupt: Corrupt


MUTATIONS: list[Mutation] = []


def mutation(gate: str, *codes: str, also: tuple[str, ...] = ()) -> Callable[[Corrupt], Corrupt]:
    """Register a corruption under its function's name."""

    def register(corrupt: Corrupt) -> Corrupt:
        kind = corrupt.__name__.replace("_", " ")
        MUTATIONS.append(Mutation(kind, gate, frozenset(codes), frozenset(also), corrupt))
        return corrupt

    return register


def _put(text: str, span: tuple[int, int], new: str = "") -> str:
    return text[: span[0]] + new + text[span[1] :]


def _blocks(located: Located) -> list[LocatedBlock]:
    return list(located.walk())


def _pick_path(located: Located, rng: random.Random) -> Part:
    return rng.choice(rng.choice(_blocks(located)).paths)


def _without_closer(part: Part, tag: str, text: str) -> str:
    at = text.rindex(tag, part.span[0], part.span[1])
    return _put(text, (at, at + len(tag) + 1))


def _leaves(located: Located) -> list[tuple[LocatedBlock, Part]]:
    return [(b, p) for b in _blocks(located) for p in b.paths if not p.blocks]


# --- tags ------------------------------------------------------------------------------------


@mutation("grammar", "unclosed-path")
def missing_end_path(located: Located, rng: random.Random) -> str | None:
    path = _pick_path(located, rng)
    return _without_closer(path, "</Path>", located.text)


@mutation("grammar", "unclosed-path")
def end_path_inside_a_line(located: Located, rng: random.Random) -> str | None:
    path = _pick_path(located, rng)
    at = located.text.rindex("</Path>", *path.span)
    return _put(located.text, (at - 1, at))


@mutation("grammar", "unclosed-goal")
def missing_end_goal(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    at = located.text.index("</Goal>", block.outlines[-1].span[1])
    return _put(located.text, (at, at + len("</Goal>\n")))


@mutation("grammar", "unclosed-outline")
def missing_end_outline(located: Located, rng: random.Random) -> str | None:
    outline = rng.choice(rng.choice(_blocks(located)).outlines)
    return _without_closer(outline, "</Outline>", located.text)


@mutation("grammar", "unclosed-conclusion")
def missing_end_conclusion(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    assert block.conclusion is not None
    return _without_closer(block.conclusion, "</Conclusion>", located.text)


@mutation("grammar", "unclosed-parallel", also=("block-in-conclusion",))
def missing_end_parallel(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    at = block.span[1] - len("</Parallel>")
    return _put(located.text, (at, block.span[1] + 1))


@mutation("grammar", "unclosed-think")
def missing_end_think(located: Located, rng: random.Random) -> str | None:
    if not located.text[located.answer[0] :].strip():
        return None
    at = located.answer[0] - len("</Think>")
    return _put(located.text, (at, located.answer[0]))


@mutation("grammar", "missing-goal", also=("too-wide", "no-block"))
def missing_goal(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    start = located.text.index("<Goal>", block.tag[1])
    return _put(located.text, (start, block.paths[0].span[0]))


@mutation("grammar", "stray-tag")
def doubled_end_path(located: Located, rng: random.Random) -> str | None:
    path = _pick_path(located, rng)
    return _put(located.text, (path.span[1], path.span[1]), "\n</Path>")


@mutation("grammar", "stray-tag")
def stray_end_parallel(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(located.blocks)
    return _put(located.text, (block.span[1], block.span[1]), "\n</Parallel>")


@mutation("grammar", "repeated-think")
def doubled_end_think(located: Located, rng: random.Random) -> str | None:
    at = located.answer[0]
    if not located.text.endswith("</Think>", 0, at):
        return None
    return _put(located.text, (at, at), "\n</Think>")


@mutation("grammar", "spacing")
def empty_line_between_tags(located: Located, rng: random.Random) -> str | None:
    path = _pick_path(located, rng)
    return _put(located.text, (path.span[0], path.span[0]), "\n")


@mutation("grammar", "stray-text", also=("added-content",))
def text_between_paths(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    at = block.paths[-1].span[0]
    return _put(located.text, (at, at), "Now the last one.\n")


@mutation("grammar", "missing-cue", also=("moved-sentence", "missing-sentence"))
def missing_cue(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    if not located.text.endswith("\n", 0, block.span[0]):
        return None  # the tag would stand within a line, and be a word
    return _put(located.text, (block.span[0], block.tag[0]))


# --- blocks ----------------------------------------------------------------------------------


@mutation(
    "grammar",
    "path-count",
    also=(
        "missing-sentence",
        "moved-sentence",
        "lost-content",
        "content-distance",
        "changed-sentence",
        "answer-changed",
    ),
)
def dropped_path(located: Located, rng: random.Random) -> str | None:
    wide = [block for block in _blocks(located) if len(block.paths) > 2]
    if not wide:
        return None
    path = rng.choice(rng.choice(wide).paths)
    return _put(located.text, (path.span[0], path.span[1] + 1))


@mutation("grammar", "path-count")
def extra_outline(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    last = block.outlines[-1]
    stem, _, number = (last.label or "").rpartition(".")
    label = f"{stem}.{int(number) + 1}" if stem else f"{int(number) + 1}"
    new = f"\n<Outline>\n{label}: Verify all of it.\n</Outline>"
    return _put(located.text, (last.span[1], last.span[1]), new)


@mutation(
    "grammar",
    "path-count",
    also=(
        "repeated-number",
        "identical-paths",
        "added-content",
        "duplicated-sentence",
        "content-distance",
        "moved-sentence",
        "changed-sentence",
    ),
)
def duplicated_path(located: Located, rng: random.Random) -> str | None:
    path = _pick_path(located, rng)
    return _put(located.text, (path.span[1], path.span[1]), "\n" + located.at(path.span))


@mutation(
    "grammar",
    "single-path",
    also=(
        "no-block",
        "missing-sentence",
        "moved-sentence",
        "lost-content",
        "content-distance",
        "changed-sentence",
        "answer-changed",
    ),
)
def block_of_one_path(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    text = located.text
    for part in [*reversed(block.paths[1:]), *reversed(block.outlines[1:])]:
        text = _put(text, (part.span[0], part.span[1] + 1))
    return text


@mutation("grammar", "wrong-number", also=("nested-number",))
def renumbered_paths(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    text = located.text
    for number, path in reversed(list(enumerate(block.paths, start=5))):
        stem = (path.label or "").rpartition(".")[0]
        at = path.inner[0] - len(path.label or "") - 1
        text = _put(text, (at, path.inner[0] - 1), f"{stem}.{number}" if stem else f"{number}")
    return text


@mutation("grammar", "repeated-number", "wrong-number", also=("nested-number",))
def one_number_for_all_paths(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    text = located.text
    for path in reversed(block.paths):
        at = path.inner[0] - len(path.label or "") - 1
        text = _put(text, (at, path.inner[0] - 1), block.paths[0].label or "")
    return text


@mutation("grammar", "missing-number", also=("garbled-label", "nested-number"))
def unnumbered_path(located: Located, rng: random.Random) -> str | None:
    path = _pick_path(located, rng)
    if re.match(r"\s*[0-9.]+:", located.at(path.inner)):
        return None
    at = path.inner[0] - len(path.label or "") - 1
    return _put(located.text, (at, path.inner[0]))


@mutation("grammar", "garbled-label", also=("changed-sentence", "missing-sentence"))
def garbled_label(located: Located, rng: random.Random) -> str | None:
    path = _pick_path(located, rng)
    return _put(located.text, (path.inner[0], path.inner[0]), "1:2:")


@mutation(
    "grammar",
    "empty-path",
    also=(
        "missing-sentence",
        "moved-sentence",
        "lost-content",
        "content-distance",
        "changed-sentence",
        "answer-changed",
    ),
)
def empty_path(located: Located, rng: random.Random) -> str | None:
    path = _pick_path(located, rng)
    return _put(located.text, path.inner, "\n")


@mutation("grammar", "empty-outline")
def empty_outline(located: Located, rng: random.Random) -> str | None:
    outline = rng.choice(rng.choice(_blocks(located)).outlines)
    return _put(located.text, outline.inner, "\n")


@mutation("grammar", "empty-conclusion")
def empty_conclusion(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    assert block.conclusion is not None
    return _put(located.text, block.conclusion.inner)


@mutation("grammar", "missing-conclusion")
def missing_conclusion(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    assert block.conclusion is not None
    start, end = block.conclusion.span
    return _put(located.text, (start, end + 1))


@mutation(
    "grammar",
    "conclusion-outside-block",
    also=("missing-conclusion", "added-content", "duplicated-sentence", "content-distance"),
)
def conclusion_after_block(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    assert block.conclusion is not None
    start, end = block.conclusion.span
    moved = _put(located.text, (block.span[1], block.span[1]), "\n" + located.text[start:end])
    return _put(moved, (start, end + 1))


def _one_more_block(prefix: str = "") -> str:
    return (
        f"Let's think in parallel.\n<Parallel>\n<Goal>\n<Outline>\n{prefix}1: Find seven.\n"
        f"</Outline>\n<Outline>\n{prefix}2: Find eight.\n</Outline>\n</Goal>\n<Path>\n{prefix}1: "
        f"Seven it is.\n</Path>\n<Path>\n{prefix}2: Eight it is.\n</Path>\n<Conclusion>\nSeven and "
        "eight.\n</Conclusion>\n</Parallel>\n"
    )


@mutation("grammar", "block-in-conclusion", also=("added-content", "nested-number", "too-deep"))
def block_in_a_conclusion(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(located.blocks)
    assert block.conclusion is not None
    at = block.conclusion.inner[0]
    return _put(located.text, (at, at), _one_more_block())


@mutation("grammar", "misplaced-block", also=("added-content", "path-count"))
def block_between_paths(located: Located, rng: random.Random) -> str | None:
    at = rng.choice(located.blocks).paths[-1].span[0]
    return _put(located.text, (at, at), _one_more_block().split("\n", 1)[1])


@mutation("grammar", "block-outside-thought", also=("added-content",))
def block_in_the_answer(located: Located, rng: random.Random) -> str | None:
    if not located.at(located.answer).strip():
        return None
    return f"{located.text.rstrip()}\n{_one_more_block()}So."


# --- shape -----------------------------------------------------------------------------------


@mutation("shape", "too-deep")
def nested_three_deep(located: Located, rng: random.Random) -> str | None:
    deep = [(b, p) for b, p in _leaves(located) if b.depth == 2]
    if deep:
        _, path = rng.choice(deep)
        inner = _one_more_block(f"{path.label}.")
        return _put(located.text, (path.inner[1], path.inner[1]), inner)
    _, path = rng.choice(_leaves(located))
    inner = _one_more_block(f"{path.label}.1.")
    middle = _one_more_block(f"{path.label}.").replace("it is.\n", f"it is.\n{inner}", 1)
    return _put(located.text, (path.inner[1], path.inner[1]), middle)


@mutation("shape", "too-wide", also=("added-content", "added-text", "content-distance"))
def seventeen_paths(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(located.blocks)
    last_outline, last_path = block.outlines[-1], block.paths[-1]
    numbers = range(len(block.paths) + 1, 18)
    paths = "".join(f"\n<Path>\n{n}: It is {n * n}.\n</Path>" for n in numbers)
    outlines = "".join(f"\n<Outline>\n{n}: Square {n}.\n</Outline>" for n in numbers)
    text = _put(located.text, (last_path.span[1], last_path.span[1]), paths)
    return _put(text, (last_outline.span[1], last_outline.span[1]), outlines)


@mutation("shape", "nested-number")
def nested_numbers_restart(located: Located, rng: random.Random) -> str | None:
    nested = [b for b in _blocks(located) if b.depth == 2]
    if not nested:
        return None
    block = rng.choice(nested)
    text = located.text
    parts = [*block.outlines, *block.paths]
    for part in sorted(parts, key=lambda p: -p.inner[0]):
        label = part.label or ""
        at = part.inner[0] - len(label) - 1
        text = _put(text, (at, part.inner[0] - 1), label.rpartition(".")[2])
    return text


@mutation("shape", "no-block", also=())
def flattened(located: Located, rng: random.Random) -> str | None:
    return flatten_text(located.text)


# --- content ---------------------------------------------------------------------------------


def _sentences(located: Located, minimum: int = 40) -> list[tuple[int, int]]:
    """Sentences of the thought's trunk that stand but once, of ``minimum`` characters or more,
    and name no final answer."""
    assert located.thought is not None
    edges = [located.thought[0]]
    for block in located.blocks:
        edges += block.span
    edges.append(located.thought[1])
    flat = "".join(flatten_text(located.text).split())
    found = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        part = located.text[start:end]
        for span in split_sentences(part):
            inner = trimmed(part, span)
            said = part[slice(*inner)]
            if len(said) < minimum or flat.count("".join(said.split())) != 1:
                continue
            if "boxed" in said or "nswer" in said:
                continue
            found.append((start + inner[0], start + inner[1]))
    return found


@mutation("coverage", "missing-sentence")
def lost_sentence(located: Located, rng: random.Random) -> str | None:
    sentences = _sentences(located)
    return _put(located.text, rng.choice(sentences)) if sentences else None


@mutation("coverage", "duplicated-sentence")
def doubled_sentence(located: Located, rng: random.Random) -> str | None:
    sentences = _sentences(located)
    if not sentences:
        return None
    start, end = rng.choice(sentences)
    return _put(located.text, (end, end), f"\n{located.text[start:end]}")


@mutation("coverage", "changed-sentence")
def changed_number(located: Located, rng: random.Random) -> str | None:
    with_numbers = [s for s in _sentences(located) if re.search(r"\d", located.at(s))]
    if not with_numbers:
        return None
    start, end = rng.choice(with_numbers)
    digit = rng.choice(list(re.finditer(r"\d", located.text[start:end])))
    new = str((int(digit.group()) + rng.randint(1, 9)) % 10)
    return _put(located.text, (start + digit.start(), start + digit.end()), new)


@mutation("coverage", "moved-sentence", also=("missing-sentence",))
def moved_sentence(located: Located, rng: random.Random) -> str | None:
    sentences = _sentences(located)
    if len(sentences) < 6:
        return None
    at = rng.randrange(len(sentences) - 5)
    (start, end), (_, target) = sentences[at], sentences[at + 5]
    text = _put(located.text, (target, target), f"\n{located.text[start:end]}")
    return _put(text, (start, end))


@mutation(
    "content",
    "lost-content",
    also=(
        "missing-sentence",
        "moved-sentence",
        "changed-sentence",
        "content-distance",
        "answer-changed",
        "answer-missing",
    ),
)
def lost_tail(located: Located, rng: random.Random) -> str | None:
    """The last 19 % of the thought, as far as it is outside a block."""
    assert located.thought is not None
    start, end = located.thought
    cut = max(end - (end - start) * 19 // 100, located.blocks[-1].span[1] + 1)
    cut = located.text.find("\n", cut, end)
    if cut < 0 or end - cut < 700:
        return None
    return _put(located.text, (cut, end - 1))


@mutation("content", "added-content", also=("changed-sentence", "content-distance"))
def invented_passage(located: Located, rng: random.Random) -> str | None:
    words = ["otter", "quartz", "lantern", "meadow", "thimble", "harbour", "velvet", "cobalt"]
    passage = "".join(
        f"The {rng.choice(words)} near the {rng.choice(words)} keeps {rng.randint(100, 999)} "
        f"{rng.choice(words)}s of {rng.choice(words)}.\n"
        for _ in range(16)
    )
    at = located.blocks[0].span[0]
    return _put(located.text, (at, at), passage)


@mutation(
    "content",
    "changed-content",
    "lost-content",
    also=(
        "missing-sentence",
        "moved-sentence",
        "changed-sentence",
        "content-distance",
        "added-content",
        "answer-changed",
        "duplicated-sentence",
        "transitional-opening",
    ),
)
def siblings_mixed(located: Located, rng: random.Random) -> str | None:
    """The words of two long sibling paths, in turns: what a fault in the KV cache makes."""
    for block in _blocks(located):
        long = [p for p in block.paths if not p.blocks and len(located.at(p.inner)) >= 700]
        if len(long) < 2:
            continue
        first, second = (located.at(path.inner).split(" ") for path in long[:2])
        mixed = [word for pair in zip(first, second, strict=False) for word in pair]
        half = len(mixed) // 2
        text = _put(located.text, long[1].inner, " " + " ".join(mixed[half:]).strip() + "\n")
        return _put(text, long[0].inner, " " + " ".join(mixed[:half]).strip() + "\n")
    return None


# --- answer ----------------------------------------------------------------------------------

_CONTENT = ("changed-sentence", "missing-sentence", "moved-sentence", "lost-content")


@mutation("answer", "answer-changed", also=_CONTENT)
def changed_answer(located: Located, rng: random.Random) -> str | None:
    found = final_answer(located.text, located.answer)
    if found is None or not re.fullmatch(r"-?\d+", found.text):
        return None
    start, end = found.span
    new = located.text[start:end].replace(found.text, str(int(found.text) + rng.randint(1, 9)))
    return _put(located.text, (start, end), new)


@mutation("answer", "answer-changed", also=_CONTENT)
def changed_answer_in_the_thought(located: Located, rng: random.Random) -> str | None:
    if located.thought is None or final_answer(located.text, located.answer) is None:
        return None
    found = final_answer(located.text, located.thought)
    if found is None or not re.fullmatch(r"-?\d+", found.text):
        return None
    start, end = found.span
    new = located.text[start:end].replace(found.text, str(int(found.text) + rng.randint(1, 9)))
    return _put(located.text, (start, end), new)


@mutation("answer", "answer-changed", also=(*_CONTENT, "duplicated-sentence"))
def a_second_final_answer(located: Located, rng: random.Random) -> str | None:
    found = final_answer(located.text, located.answer)
    if found is None or not re.fullmatch(r"-?\d+", found.text):
        return None
    other = int(found.text) + rng.randint(1, 9)
    return f"{located.text.rstrip()}\n\n**Final Answer**\n{other}\n"


@mutation("answer", "answer-missing", "answer-changed", also=(*_CONTENT, "content-distance"))
def bare_final_answer_marker(located: Located, rng: random.Random) -> str | None:
    """The answer replaced by its marker, as the published preprocessing does."""
    if final_answer(located.text, located.answer) is None or located.thought is None:
        return None
    thought = re.sub(r"\\boxed\{[^\n]*", "this", located.text[: located.answer[0]])
    thought = re.sub(r"(?i)answer", "result", thought)
    return f"{thought}\n\nAnswer:\n\n**Final Answer**"


# --- independence ----------------------------------------------------------------------------


def _sibling(block: LocatedBlock, path: Part) -> Part:
    return next(other for other in block.paths if other is not path)


@mutation("independence", "transitional-opening", also=("changed-sentence",))
def transitional_opening(located: Located, rng: random.Random) -> str | None:
    openings = [
        "First, let's",
        "Alternatively, we can",
        "On the other hand, we",
        "Next, we",
        "Similarly, we",
        "Then we",
        "In contrast, we",
        "Wait, we",
    ]
    path = _pick_path(located, rng)
    if located.at(path.inner).lstrip().startswith(("First", "Wait", "Alternatively", "Similarly")):
        return None
    opening = rng.choice(openings)
    return _put(located.text, (path.inner[0], path.inner[0]), f" {opening} go on.")


@mutation("independence", "back-reference", also=("changed-sentence",))
def back_reference(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    path = block.paths[-1]
    other = block.paths[0].label
    phrases = [
        f"As in path {other}, it holds.",
        f"This uses the result from path {other}.",
        "The previous case gave the same.",
        "It differs from the other approach.",
        f"Unlike branch {other}, it is small.",
        f"The value from step {other} is needed.",
    ]
    at = path.inner[1]
    glue = "" if located.text[at - 1] == "\n" else "\n"
    phrase = rng.choice(phrases)
    if "step" in phrase and re.search(r"(?i)step", located.at(path.inner)):
        return None
    return _put(located.text, (at, at), f"{glue}{phrase}\n")


@mutation("independence", "sibling-symbol", also=("changed-sentence",))
def symbol_of_a_sibling(located: Located, rng: random.Random) -> str | None:
    block = rng.choice(_blocks(located))
    one, two = block.paths[0], block.paths[-1]
    symbol = next((s for s in "QWJKVUZ" if not re.search(rf"(?<!\w){s}(?!\w)", located.text)), None)
    if symbol is None:
        return None
    uses = ["Twice {} is left.", "Add {} to both sides.", "It grows like {}^2.", "So half of {}."]
    text = _put(located.text, (two.inner[1], two.inner[1]), rng.choice(uses).format(symbol) + "\n")
    return _put(text, (one.inner[1], one.inner[1]), f"Let {symbol} be what is left.\n")


@mutation(
    "independence",
    "identical-paths",
    also=(
        "changed-sentence",
        "missing-sentence",
        "moved-sentence",
        "duplicated-sentence",
        "lost-content",
        "content-distance",
        "changed-content",
        "added-content",
        "answer-changed",
        "transitional-opening",
    ),
)
def one_path_twice(located: Located, rng: random.Random) -> str | None:
    leaves = [b for b in _blocks(located) if not any(p.blocks for p in b.paths)]
    if not leaves:
        return None
    block = rng.choice(leaves)
    return _put(located.text, block.paths[1].inner, located.at(block.paths[0].inner))


# --- texts of our own ------------------------------------------------------------------------


def synthetic(seed: int) -> str:
    """A well-formed text with a nested block, several sentences a path, and a final answer."""
    rng = random.Random(seed)
    names = ["rope", "tank", "field", "tower", "basket", "garden"]
    a, b, c = rng.sample(names, 3)
    x, y, z = (rng.randint(12, 97) for _ in range(3))
    total = x * y + z * z + (x + z)

    def talk(name: str, count: int) -> Iterator[str]:
        for index in range(count):
            p, q = rng.randint(10, 99), rng.randint(10, 99)
            yield (
                f"For the {name} at mark {index + 1} we note {p} + {q} = {p + q}, which keeps the "
                f"{name} within {p * q} units."
            )

    def path(label: str, *content: str | Block) -> Path:
        return Path(label, list(content))

    inner = Block(
        [Outline("2.1", f" Square {z}."), Outline("2.2", f" Bound the {b}.")],
        [
            path("2.1", f" {z} squared is {z * z}. It is a whole number of units.\n"),
            path("2.2", " " + " ".join(talk(b, 3)) + "\n"),
        ],
        Conclusion([f"The square is {z * z} and the {b} is bounded."]),
    )
    outer = Block(
        [
            Outline("1", f" Determine the area of the {a}."),
            Outline("2", f" Determine the size of the {b}."),
            Outline("3", f" Determine the height of the {c}."),
        ],
        [
            path("1", f" The area of the {a} is {x} * {y} = {x * y}. " + " ".join(talk(a, 9))),
            path("2", f" The size of the {b} needs a square.\n", inner, f"So it is {z * z}.\n"),
            path("3", f" The height of the {c} is {x} + {z} = {x + z}. " + " ".join(talk(c, 8))),
        ],
        Conclusion([f"Area {x * y}, size {z * z}, height {x + z}."]),
    )
    sides = Block(
        [Outline("1", " Verify by parity."), Outline("2", " Verify by size.")],
        [
            path("1", f" The parity of {total} is that of the sum of its parts."),
            path("2", f" The size of {total} is larger than {x * y}, as it must be."),
        ],
        Conclusion(["Both agree."]),
    )
    thought: list[str | Block] = [
        f"We are to add an area, a size and a height, with x = {x}, y = {y} and z = {z}.\n",
        "\n".join(talk("sum", 4)) + "\n",
        outer,
        f"The sum of the three parts is {x * y} + {z * z} + {x + z} = {total}.\n",
        sides,
        "\n".join(talk("check", 24)) + "\n",
        f"So the final answer is \\boxed{{{total}}}.",
    ]
    answer = f"Answer: Adding the three parts gives the result.\n\n\\boxed{{{total}}}\n"
    return serialise(Document(thought=thought, answer=[answer]))
