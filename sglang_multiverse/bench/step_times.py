"""What a forward of stock SGLang costs on this machine, by rows, tokens and KV."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from ..server import Server
from .forwards import StepCost
from .scripted import read_log, write_scripts
from .shapes import Author, plain
from .tell import Tell
from .ways import Texts, Writer, timed

#: Rows whose steps are measured, as far as they are needed.
ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_STEPS = 24
_PROMPT = 64
_LONG = 1024
_LONG_ROWS = 4
_PREFILL = 256

#: Seconds and CPU seconds.
Gap = tuple[float, float]


class Stopwatch:
    """Measures step times of one stock server, a sweep at a time, so that sweeps can be spread over
    a run."""

    def __init__(self, server: Server, author: Author, folder: Path, most_rows: int, tell: Tell):
        self.server = server
        self.folder = folder
        self.tell = tell
        self.rows = [rows for rows in ROWS if rows < most_rows]
        self.rows.append(next((rows for rows in ROWS if rows >= most_rows), most_rows))
        self.decode: dict[int, list[Gap]] = {rows: [] for rows in self.rows}
        self.long: list[Gap] = []
        self.prefill: list[Gap] = []
        self.long_rows = max(rows for rows in self.rows if rows <= _LONG_ROWS)
        self._logs = itertools.count()
        short = [author.write(plain(_STEPS), s, prompt=_PROMPT) for s in range(self.rows[-1])]
        long = [author.write(plain(_STEPS), s, prompt=_LONG) for s in range(self.long_rows)]
        prefill = [author.write(plain(1), s, prompt=_PREFILL) for s in range(2)]
        self.texts = Texts([*short, *long, *prefill], folder / "steps.json")
        write_scripts(self.texts.scripts, self.texts.path)

    def sweep(self) -> None:
        """Measure every row count once."""
        for rows in self.rows:
            self.decode[rows] += self._gaps(range(rows))
        first = self.rows[-1]
        self.long += self._gaps(range(first, first + self.long_rows))
        for index in (first + self.long_rows, first + self.long_rows + 1):
            long = timed(self.server, self.texts, [index], Writer.whole)
            short = timed(self.server, self.texts, [0], _two_tokens)
            more = _PREFILL - _PROMPT
            self.prefill.append(
                (
                    (long.seconds - short.seconds) / more,
                    (long.cpu_seconds - short.cpu_seconds) / more,
                )
            )

    def _gaps(self, indices: Sequence[int]) -> list[Gap]:
        log = self.folder / f"steps-{next(self._logs)}.jsonl"
        timed(self.server, self.texts, list(indices), Writer.whole, log=log)
        full = [one for one in read_log(log) if one.rows == len(indices)]
        # Prefills are told from decode steps by their number: all rows together only once, first.
        return [
            (after.at - before.at, after.cpu - before.cpu)
            for before, after in itertools.pairwise(full)
        ][2:]

    def cost(self, *, cpu: bool = False) -> StepCost:
        """Medians over all sweeps, of seconds or of the scheduler's CPU seconds."""

        def median(gaps: Sequence[Gap]) -> float:
            return statistics.median(gap[cpu] for gap in gaps)

        decode = {rows: median(gaps) for rows, gaps in self.decode.items()}
        per_row = _PROMPT + _STEPS / 2
        more = self.long_rows * (_LONG - _PROMPT)
        kv = max(0.0, median(self.long) - decode[self.long_rows]) / more
        return StepCost(decode, per_row, max(0.0, median(self.prefill)), kv)


async def _two_tokens(writer: Writer, index: int) -> dict[str, object]:
    script = writer.texts.scripts[index]
    return await writer.part(index, script.prompt, script.prompt_len, script.prompt_len + 2)
