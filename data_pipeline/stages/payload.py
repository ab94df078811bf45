"""What a reply was asked for, out of what a model puts around it.

What cannot be told from the answer itself stays: gates and repair see it.
"""

from __future__ import annotations

import re

#: Characters of courtesy before or after the answer, at most.
COURTESY = 400
#: Characters of a reply that may be nothing but a refusal.
REFUSAL = 600

_THOUGHT = re.compile(r"\A\s*<(think|thinking|thought|reasoning)>.*?</\1>", re.DOTALL)
_THOUGHT_END = re.compile(r"\A(?:(?!<think>).)*?</think>", re.DOTALL)
_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[^\n`]*\n(.*?)\n?^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE
)
_WHOLE_FENCE = re.compile(r"\A\s*(```+|~~~+)[^\n]*\n(.*?)\n?[ \t]*\1\s*\Z", re.DOTALL)
#: Where what was asked for begins: a tag, a label such as ``S1``, a list or an object.
_ANSWER = re.compile(r"\s*(?:</?[A-Za-z]+>|[*_#>\- ]*[A-Z]\d+(?:\.\d+)*\b|[\[{])")
_COURTESY = re.compile(
    r"\s*(?:sure|certainly|of course|okay|ok|absolutely|great|understood|got it|no problem"
    r"|it is|here(?:'s| is| are| you)|below (?:is|are)|i(?:'ve| have) (?:rewritten|written|filled)"
    r"|the (?:rewritten|following|filled))\b[^\n]*(?:\n|\Z)",
    re.IGNORECASE,
)
#: One line, whatever it says, that ends in a colon.
_ANNOUNCED = re.compile(r"\s*[^\n]{1,200}:[ \t]*(?:\n|\Z)")
_FAREWELL = re.compile(
    r"\n\s*(?:let me know|i hope|hope this|feel free|please let|if you (?:need|want|would)"
    r"|is there anything)\b[^\n]*\s*\Z",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\s*(?:(?:i'm|i am|we're|we are) (?:very |so |really )?(?:sorry|afraid|unable|not able)"
    r"|sorry\b|i apologi[sz]e"
    r"|(?:unfortunately,? )?(?:i|we) (?:can't|cannot|can not|could not|couldn't|won't|will not"
    r"|am not able to|am unable to|must decline)"
    r"|as an ai\b|as a (?:large )?language model)",
    re.IGNORECASE,
)


def payload(text: str) -> str:
    """``text`` without an inline thought before it, courtesies around it, and a code fence around
    all that is left; fences inside stay.

    >>> payload("<think>Hm.</think>Sure! It is:\\n\\n```\\nS1: a < b\\n```\\nI hope it helps!")
    'S1: a < b'
    """
    text = without_thought(text.lstrip("\ufeff"))
    whole = _WHOLE_FENCE.match(text)
    if whole and not _FENCE.search(whole.group(2)):
        return whole.group(2).strip()
    fences = list(_FENCE.finditer(text))
    if len(fences) == 1:
        (fence,) = fences
        before, after = text[: fence.start()].strip(), text[fence.end() :].strip()
        around = (before, after)
        if all(len(one) <= COURTESY and not _ANSWER.match(one) for one in around):
            return fence.group(2).strip()
    return _without_courtesies(text).strip()


def number(digits: str) -> int:
    """The number that ``digits`` write. Of one too long to be anybody's, another that is none."""
    return int(digits[:10])


def without_thought(text: str) -> str:
    """``text`` after a thought that the endpoint left in it, its opening tag or none."""
    match = _THOUGHT.match(text) or _THOUGHT_END.match(text)
    return text[match.end() :] if match else text


def refuses(text: str) -> bool:
    """Whether ``text`` is a refusal in plain words and nothing else.

    >>> refuses("I'm sorry, but I can't help with that."), refuses("S1: I can't see why")
    (True, False)
    """
    said = without_thought(text).replace("’", "'")
    return len(said) <= REFUSAL and bool(_REFUSAL.match(said)) and not _holds_answer(said)


def _holds_answer(text: str) -> bool:
    return any(_ANSWER.match(line) for line in text.splitlines())


def _without_courtesies(text: str) -> str:
    polite = _COURTESY.match(text) or _ANNOUNCED.match(text)
    if polite and not _ANSWER.match(text) and _ANSWER.match(text[polite.end() :]):
        text = text[polite.end() :]
    if _holds_answer(text):
        text = _FAREWELL.sub("", text)
    return text
