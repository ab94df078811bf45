"""An error in fork and join ends the request it struck, and nothing else."""

from __future__ import annotations

import pytest

from .client import Client, ServerError
from .faults import OF_POOL, OF_ROWS, OF_TREE, Faulty
from .texts import Texts

pytestmark = pytest.mark.weights("random")

#: What can fail without the answer failing: its figures, and what only an abort asks for.
HARMLESS = {"trace", "cut", "written", "drop"}


@pytest.mark.parametrize("fault", [*OF_TREE, *OF_POOL, *OF_ROWS])
def test_a_fault_ends_its_request_alone(server: Client, texts: Texts, fault: str) -> None:
    """Beside it others fork and join as ever; every slot comes back; the server lives."""

    def ask(seed: int, faulty: bool) -> object:
        script, prompt_len = texts.make(seed)
        custom = {"script": script, "eos": texts.eos, **({"fault": fault} if faulty else {})}
        try:
            answer = server.generate(
                script[:prompt_len],
                custom_logit_processor=Faulty.to_str(),
                custom_params=custom,
            )
        except ServerError as error:
            return str(error)
        assert answer["output_ids"] == [*script[prompt_len:], texts.eos]
        return answer["meta_info"]["finish_reason"]["type"]

    calls = [(lambda s=s: ask(s, s % 3 == 0)) for s in range(600, 609)]
    results = server.at_once(calls)
    for i, result in enumerate(results):
        if (600 + i) % 3:
            assert result == "stop"
        elif fault not in HARMLESS:
            assert "HTTP 500" in str(result), result
            assert "Fork and join failed" in str(result)
    assert ask(600, False) == "stop"
    server.assert_sound()


def test_the_log_tells_where(server: Client, texts: Texts) -> None:
    script, prompt_len = texts.make(606)
    with pytest.raises(ServerError):
        server.generate(
            script[:prompt_len],
            custom_logit_processor=Faulty.to_str(),
            custom_params={"script": script, "eos": texts.eos, "fault": "join"},
            rid="the-faulty-one",
        )
    log = server.server.log()
    at = log.index("fork and join failed on request the-faulty-one")
    assert "a fault was asked for" in log[at : at + 4000]
