"""An error in fork and join ends the request it struck, and nothing else."""

from __future__ import annotations

import pytest

from .client import Client, ServerError
from .faults import FAULTS, Faulty, end_alone
from .texts import Texts

pytestmark = pytest.mark.weights("random")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_its_request_alone(server: Client, texts: Texts, fault: str) -> None:
    """Beside it others fork and join as ever; every slot comes back; the server lives."""
    end_alone(server, texts.make, texts.eos, fault)


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
