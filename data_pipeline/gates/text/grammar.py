"""The grammar gate: goal, outlines, paths, conclusion, each closed and in its place.

A stack over the tags of a text that names what is missing where it is missing, so that one lost
tag is one finding. Whatever it should overlook, :func:`sglang_multiverse.structure.parse` has the
last word: a text it finds fault with is never accepted.
"""

from __future__ import annotations

from collections.abc import Sequence

from sglang_multiverse.dialect import MULTIVERSE, DialectSpec, Tag
from sglang_multiverse.lexer import split_tags

from ...finding import Finding
from ..options import GateOptions
from .contents import Open, check_labelled, check_parts, short
from .located import Located

#: What may stand directly in what; None is the text outside ``<Think>``.
_PARENTS: dict[Tag, tuple[Tag | None, ...]] = {
    Tag.THINK: (None,),
    Tag.PARALLEL: (Tag.THINK, Tag.PATH),
    Tag.GOAL: (Tag.PARALLEL,),
    Tag.OUTLINE: (Tag.GOAL,),
    Tag.PATH: (Tag.PARALLEL,),
    Tag.CONCLUSION: (Tag.PARALLEL,),
}


#: Findings in spite of which every sentence has its place.
_KEEP_TREE = frozenset(
    {
        "empty-conclusion",
        "empty-outline",
        "empty-path",
        "garbled-label",
        "missing-conclusion",
        "missing-cue",
        "missing-number",
        "path-count",
        "repeated-number",
        "spacing",
        "text-before-think",
        "unclosed-think",  # merely cut: what else is open has findings of its own
        "wrong-number",
    }
)


def keeps_tree(findings: Sequence[Finding]) -> bool:
    """Whether what the grammar gate found leaves no doubt what belongs to which path."""
    return all(finding.code in _KEEP_TREE for finding in findings)


def check_grammar(located: Located, options: GateOptions) -> list[Finding]:
    """What departs from the grammar, in text order."""
    checker = _Checker(located.text, options, MULTIVERSE)
    checker.run()
    findings = checker.findings
    if keeps_tree(findings):
        findings = findings + _overlooked(located, complete=not findings)
    return sorted(findings, key=lambda finding: finding.span or (0, 0))


def _overlooked(located: Located, *, complete: bool) -> list[Finding]:
    """What the one parser notes and the checker does not: spacing, and where the checker found
    nothing at all (``complete``), anything else."""
    findings = []
    for issue, offset in located.issues:
        if issue.code.endswith("_gap"):
            message = f"{issue.message}; write every tag on the line after the last"
            findings.append(Finding("spacing", message, (offset, offset)))
        elif complete and issue.code != "unclosed_think":  # which is the checker's to allow
            findings.append(Finding("not-canonical", issue.message, (offset, offset)))
    return findings


class _Checker:
    def __init__(self, text: str, options: GateOptions, spec: DialectSpec):
        self.text = text
        self.options = options
        self.spec = spec
        self.findings: list[Finding] = []
        self.stack: list[Open] = []
        self.thoughts = 0
        self.tags: list[tuple[Tag, int, int]] = []

    @property
    def top(self) -> Tag | None:
        return self.stack[-1].tag if self.stack else None

    def note(self, code: str, message: str, start: int, end: int | None = None) -> None:
        self.findings.append(Finding(code, message, (start, start if end is None else end)))

    def run(self) -> None:
        at = 0
        pieces: list[tuple[str, Tag | None, int]] = []
        for string, tag in split_tags(self.text, self.spec):
            pieces.append((string, tag, at))
            if tag is not None:
                self.tags.append((tag, at, at + len(string)))
            at += len(string)
        index = 0
        for string, tag, start in pieces:
            if tag is None:
                self.between(string, index, start)
                continue
            if tag.is_open:
                self.open(tag, index, start, start + len(string))
            else:
                self.close(tag, index, start, start + len(string))
            index += 1
        self.finish()

    def between(self, string: str, index: int, start: int) -> None:
        """Text before tag ``index``: none may stand where only tags do."""
        if self.top is Tag.PARALLEL and self.stack[-1].conclusions and string.strip():
            following = self.tags[index][0] if index < len(self.tags) else None
            if following is not Tag.END_PARALLEL:
                self.unwind(len(self.stack) - 2, start)
                return
        if self.top in (Tag.PARALLEL, Tag.GOAL) and string.strip():
            lead = len(string) - len(string.lstrip())
            self.note(
                "stray-text",
                f"text between two tags of a block: {short(string)}; move it into a path or the "
                "conclusion, or remove it",
                start + lead,
                start + len(string.rstrip()),
            )

    # --- openers ---

    def open(self, tag: Tag, index: int, start: int, end: int) -> None:
        if tag is Tag.THINK:
            self.open_think(start, end)
            return
        if tag is Tag.PARALLEL:
            self.open_block(start, end)
            return
        if not self.fits(tag):
            depth = self.holder(tag, index)
            if depth is None:
                self.misplaced(tag, start, end)
            else:
                self.unwind(depth, start)
        parent = self.stack[-1] if self.stack else None
        if parent is not None and tag is Tag.GOAL:
            parent.goals += 1
        elif parent is not None and tag is Tag.CONCLUSION:
            parent.conclusions += 1
        self.stack.append(Open(tag, start, end))

    def fits(self, tag: Tag) -> bool:
        """Whether ``tag`` may open here."""
        if self.top not in _PARENTS[tag]:
            return False
        parent = self.stack[-1]
        if tag is Tag.GOAL:
            return not parent.goals
        if tag in (Tag.PATH, Tag.CONCLUSION):
            return not parent.conclusions
        return True

    def holder(self, tag: Tag, index: int) -> int | None:
        """How deep the open tag stands that ``tag`` belongs in, if those above were closed."""
        if tag is Tag.CONCLUSION and self.top is Tag.PATH and not self.ends_block(index):
            return None
        for depth in range(len(self.stack) - 1, -1, -1):
            entry = self.stack[depth]
            if entry.tag in _PARENTS[tag]:
                done = entry.conclusions if tag is not Tag.GOAL else entry.goals
                return None if done else depth
        return None

    def ends_block(self, index: int) -> bool:
        """Whether the conclusion opened by tag ``index`` is followed by ``</Parallel>``."""
        for tag, _, _ in self.tags[index + 1 :]:
            if tag is not Tag.END_CONCLUSION:
                return tag is Tag.END_PARALLEL
        return False

    def misplaced(self, tag: Tag, start: int, end: int) -> None:
        name = self.spec[tag]
        if tag is Tag.CONCLUSION:
            if self.top is Tag.PARALLEL:
                self.note("repeated-conclusion", "a block has one conclusion", start, end)
            else:
                self.note(
                    "conclusion-outside-block",
                    f"{name} outside a block; put it after the block's last path, before "
                    f"{self.spec[Tag.END_PARALLEL]}",
                    start,
                    end,
                )
        elif tag is Tag.PATH and self.top is Tag.PARALLEL:
            self.note("misplaced-path", "a path after the conclusion; paths go before", start, end)
        else:
            self.note("stray-tag", f"{name} has no place here; remove or move it", start, end)

    def open_think(self, start: int, end: int) -> None:
        name = self.spec[Tag.THINK]
        self.thoughts += 1
        if self.thoughts > 1:
            self.note("repeated-think", f"a second {name}; an answer has one", start, end)
            return
        if self.stack:
            self.unwind(0, start)
        if self.text[:start].strip():
            self.note("text-before-think", f"text before {name}; move it inside", 0, start)
        self.stack.append(Open(Tag.THINK, start, end))

    def open_block(self, start: int, end: int) -> None:
        top = self.stack[-1] if self.stack else None
        if top is not None and top.tag is Tag.PARALLEL and top.conclusions:
            self.unwind(len(self.stack) - 2, start)
            top = self.stack[-1] if self.stack else None
        if top is None:
            self.note(
                "block-outside-thought",
                f"a block outside {self.spec[Tag.THINK]}; move it into the thought",
                start,
                end,
            )
        elif top.tag is Tag.CONCLUSION:
            self.note("block-in-conclusion", "a conclusion holds no block; end it", start, end)
        elif top.tag not in _PARENTS[Tag.PARALLEL]:
            self.note(
                "misplaced-block",
                f"a block directly in {self.spec[top.tag]}; blocks stand in the thought or in a "
                "path",
                start,
                end,
            )
        elif self.options.require_cue and not self.text.endswith(self.spec.cue, 0, start):
            self.note(
                "missing-cue",
                f"the line before {self.spec[Tag.PARALLEL]} must be {self.spec.cue.strip()!r}",
                start,
                end,
            )
        self.stack.append(Open(Tag.PARALLEL, start, end))

    # --- closers ---

    def close(self, tag: Tag, index: int, start: int, end: int) -> None:
        opener = tag.partner
        if self.top is opener:
            self.pop(start, end)
            return
        depths = [d for d, entry in enumerate(self.stack) if entry.tag is opener]
        if not depths or self.goes_on(index):
            code = "repeated-think" if tag is Tag.END_THINK else "stray-tag"
            if tag is Tag.END_THINK and not self.thoughts:
                code = "missing-think"
            self.note(code, f"{self.spec[tag]} closes nothing; remove it", start, end)
            return
        self.unwind(depths[-1], start)
        self.pop(start, end)

    def goes_on(self, index: int) -> bool:
        """Whether the tag after ``index`` fits the innermost open tag, so that the tag at
        ``index``, which does not, is one too many."""
        if self.top in (None, Tag.THINK) or index + 1 >= len(self.tags):
            return False
        tag = self.tags[index + 1][0]
        if tag is Tag.PARALLEL:
            return False  # fits nearly everywhere, so tells nothing
        return self.fits(tag) if tag.is_open else tag.partner is self.top

    def unwind(self, depth: int, at: int) -> None:
        """Close what is open above the entry at ``depth``, each with a finding."""
        while len(self.stack) - 1 > depth:
            entry = self.stack[-1]
            self.unclosed(entry, at)
            self.pop(at, at)

    def unclosed(self, entry: Open, at: int) -> None:
        self.note(
            f"unclosed-{entry.tag.name.lower()}",
            f"{self.spec[entry.tag]} is not closed; write {self.spec[entry.tag.partner]} where it "
            "ends",
            entry.start,
            at,
        )

    def pop(self, inner_end: int, end: int) -> None:
        entry = self.stack.pop()
        span = (entry.start, end)
        parent = self.stack[-1] if self.stack else None
        if entry.tag is Tag.PARALLEL:
            self.findings += check_parts(entry, span)
        elif entry.tag in (Tag.OUTLINE, Tag.PATH):
            label, found = check_labelled(self.text, entry, inner_end, span)
            self.findings += found
            if entry.tag is Tag.PATH and parent is not None and parent.tag is Tag.PARALLEL:
                parent.paths.append((label, span))
            elif entry.tag is Tag.OUTLINE and parent is not None and parent.tag is Tag.GOAL:
                parent.outlines.append((label, span))
        elif entry.tag is Tag.GOAL and parent is not None:
            parent.outlines.extend(entry.outlines)
        elif entry.tag is Tag.CONCLUSION:
            empty = not self.text[entry.inner : inner_end].strip()
            if empty:
                self.note("empty-conclusion", "say what the paths come to", *span)

    def finish(self) -> None:
        end = len(self.text)
        cut = [entry for entry in self.stack if entry.tag is not Tag.THINK]
        while self.stack:
            entry = self.stack[-1]
            if entry.tag is not Tag.THINK or cut or self.options.require_complete:
                self.unclosed(entry, end)
            self.stack.pop()
        if not self.thoughts and all(f.code != "missing-think" for f in self.findings):
            self.note("missing-think", f"the thought stands in {self.spec[Tag.THINK]}", 0, 0)
