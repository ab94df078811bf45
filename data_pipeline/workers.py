"""Where the stages' own work is done: in threads, or in processes of their own.

A process is given records and replies over a pipe and gives back calls and outcomes. It holds the
generators of its items, opens neither store nor connection, and ends when its pipe does: with the
run, or with a run that was killed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import signal
import struct
import sys
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol

from .advance import advance, begin, unforeseen
from .recipe import Recipe
from .record import Record
from .stages import Steps
from .store.runs import Outcome
from .teacher.call import Call, Reply

_LENGTH = struct.Struct("!Q")
_PROGRAM = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve()"


class WorkerDied(RuntimeError):
    """The process that an item was worked on in is gone: killed, or out of memory."""


class Working(Protocol):
    """One item in hand."""

    async def go_on(self, reply: Reply | None) -> Call | Outcome:
        """Its next step; None begins it."""

    def drop(self) -> None:
        """Let go of it, done or not."""


class Workers(Protocol):
    """Do the work of many items."""

    def begin(self, record: Record) -> Working:
        """Take ``record`` in hand."""

    async def close(self) -> None:
        """Let go of everything, at once."""


class Threads:
    """Work in threads of this process, so that replies of other items are not kept waiting."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def begin(self, record: Record) -> Working:
        return _Here(record, begin(record, self.recipe))

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class _Here:
    record: Record
    steps: Steps

    async def go_on(self, reply: Reply | None) -> Call | Outcome:
        return await asyncio.to_thread(advance, self.record, self.steps, reply)

    def drop(self) -> None:
        """Nothing is held but by this."""


class Processes:
    """Work in ``count`` processes, which are started as they are needed. An item stays in its
    process; where that dies, its items fail, and another is started for the next ones."""

    def __init__(self, recipe: Recipe, count: int):
        self.recipe = recipe
        self._workers = [_Worker(recipe) for _ in range(count)]

    def begin(self, record: Record) -> Working:
        at = min(range(len(self._workers)), key=lambda one: len(self._workers[one].items))
        if self._workers[at].dead:
            self._workers[at] = _Worker(self.recipe)
        return self._workers[at].begin(record)

    async def close(self) -> None:
        await asyncio.gather(*(worker.close() for worker in self._workers))


class _Worker:
    """One process, seen from here. ``items`` are those it has in hand."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.items: set[int] = set()
        self.dead = False
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Call | Outcome]] = {}
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None

    def begin(self, record: Record) -> Working:
        number = next(self._numbers)
        self.items.add(number)
        return _There(self, number, record)

    def drop(self, number: int) -> None:
        self.items.discard(number)
        if self._process is not None and not self.dead:
            self._send((number, None))

    async def close(self) -> None:
        self.dead = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._listening is not None:
            await self._listening
        if self._process is not None:
            await self._process.wait()

    async def ask(self, number: int, said: Record | Reply) -> Call | Outcome:
        async with self._starting:
            if self._process is None and not self.dead:
                await self._start()
        if self.dead:
            raise WorkerDied(self._how())
        answer: asyncio.Future[Call | Outcome] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._send((number, said))
        return await answer

    async def _start(self) -> None:
        recipe = _framed(self.recipe)  # before there is a process that waits for it
        program = _PROGRAM.format(path=sys.path, module=__name__)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(recipe)
        self._listening = asyncio.create_task(self._listen(self._process))

    def _send(self, value: Any) -> None:
        assert self._process is not None and self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(_framed(value))

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        try:
            while True:
                head = await process.stdout.readexactly(_LENGTH.size)
                (length,) = _LENGTH.unpack(head)
                number, answer = pickle.loads(await process.stdout.readexactly(length))
                waiting = self._answers.pop(number)
                if not waiting.done():  # its item was dropped meanwhile
                    waiting.set_result(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            await process.wait()
        finally:
            self.dead = True
            for waiting in self._answers.values():
                if not waiting.done():
                    waiting.set_exception(WorkerDied(self._how()))
            self._answers.clear()

    def _how(self) -> str:
        code = self._process.returncode if self._process is not None else None
        how = f"with exit code {code}; what it said last is on the terminal"
        if code is not None and code < 0:
            how = f"by {signal.Signals(-code).name}; where that is SIGKILL, memory may be short"
        return f"the worker process of this item ended {how}"


@dataclass
class _There:
    worker: _Worker
    number: int
    record: Record

    async def go_on(self, reply: Reply | None) -> Call | Outcome:
        # The columns of the source are none of the stages' business.
        said = replace(self.record, columns={}) if reply is None else reply
        try:
            return await self.worker.ask(self.number, said)
        except WorkerDied as error:
            return unforeseen(self.record.id, error)

    def drop(self) -> None:
        self.worker.drop(self.number)


def _framed(value: Any) -> bytes:
    body = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def serve() -> None:
    """The process: a recipe, then ``(item, record or reply)`` in, ``(item, call or outcome)`` out;
    ``(item, None)`` drops one.

    An interrupt is for the process that asks, which ends this one.
    """
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed is no answer
    recipe = _read(source)
    working: dict[int, tuple[Record, Steps]] = {}
    while (said := _read(source)) is not None:
        number, value = said
        if value is None:
            working.pop(number, None)
            continue
        if isinstance(value, Record):
            working[number] = (value, begin(value, recipe))
        answer = advance(*working[number], value if isinstance(value, Reply) else None)
        sink.write(_framed((number, answer)))
        sink.flush()


def _read(source: BinaryIO) -> Any:
    """The next value; None at the end."""
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = source.read(length)
    return pickle.loads(body) if len(body) == length else None
