"""The task line that ends every request: what is asked, of which part, for which time.

It tells the LLM what to answer and a replay server which answer to give.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TASK = re.compile(r"^Task: ([\w-]+)(?: (\S+))?, attempt (\d+)\.$", re.MULTILINE)
_QUESTION = re.compile(r"<question>\n(.*?)\n</question>", re.DOTALL)


@dataclass(frozen=True)
class Task:
    """``Task: rewrite B2, attempt 1.``"""

    stage: str
    subject: str = ""
    attempt: int = 1

    def __str__(self) -> str:
        subject = f" {self.subject}" if self.subject else ""
        return f"Task: {self.stage}{subject}, attempt {self.attempt}."

    @property
    def name(self) -> str:
        """Stage and subject, as cassettes name it."""
        return f"{self.stage} {self.subject}".rstrip()

    @classmethod
    def read(cls, text: str) -> Task | None:
        """The last task line of ``text``."""
        found = _TASK.findall(text)
        return cls(found[-1][0], found[-1][1], int(found[-1][2])) if found else None


def question_of(text: str) -> str | None:
    """The first question that a request gives."""
    found = _QUESTION.search(text)
    return found.group(1) if found else None
