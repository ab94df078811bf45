"""Reading what a batch says: by the rules that hold for the reply to a request of its own."""

from __future__ import annotations

from collections.abc import Iterable

from .batch_file import Answer, NotRun, read_line
from .budget import Prices
from .call import Call, Reply
from .completion import GarbledReply, reply_of
from .refused import Refused
from .transport import Endpoint, TransportError, failed, place, requests


def answers_of(lines: Iterable[bytes]) -> dict[str, Answer]:
    """Answers by the key of their call; of two for one call the first. Where a line does not say
    whose it is, a call stays without an answer."""
    answers: dict[str, Answer] = {}
    for line in map(read_line, lines):
        if line is not None:
            answers.setdefault(line.key, line.answer)
    return answers


def settled_by(
    answer: Answer, call: Call, tries: int, endpoint: Endpoint, prices: Prices
) -> Reply | TransportError | None:
    """What an ``answer`` to ``call`` comes to, which was in ``tries`` batches; None: it is to be
    asked again."""
    if isinstance(answer, Refused):
        if answer.too_long:
            return Reply(endpoint.blotted(answer.message), "too-long", tries=tries)
        if answer.passes and tries < endpoint.attempts:
            return None
        said = answer.explain(place(endpoint), requests(tries))
        said = endpoint.blotted(said)
        return TransportError(said, fatal=answer.fatal, single=answer.single)
    if isinstance(answer, (GarbledReply, NotRun)):
        return failed(answer, endpoint, tries) if tries >= endpoint.attempts else None
    return reply_of(call, answer, prices, tries=tries, blot=endpoint.blotted)
