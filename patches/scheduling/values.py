"""Values that would raise in SGLang's scheduler, and with it end the server.

SGLang checks most fields of a request in the process that takes it; these reach the forward pass as
they were sent, and raise there. Reads ``Req`` and its sampling parameters. Verified on SGLang
0.5.23.
"""

from __future__ import annotations

import numpy as np
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor


def unusable(req: Req, vocab_size: int) -> str | None:
    """What is wrong with ``req``, in words for its sender; None if a forward pass can take it."""
    params = req.sampling_params
    ids = np.asarray(req.origin_input_ids)
    if not len(ids) and req.input_embeds is None:
        return "the prompt is empty; send at least one token"
    if req.multimodal_inputs is None and len(ids):
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= vocab_size:
            odd = least if least < 0 else most
            return f"input_ids holds {odd}; token ids are 0 to {vocab_size - 1}"
    if req.return_logprob:
        top = req.logprob.top_logprobs_num or 0
        if not 0 <= top <= vocab_size:
            return f"top_logprobs_num is {top}; it must be 0 to {vocab_size}"
        if req.logprob_start_len < -1:
            return f"logprob_start_len is {req.logprob_start_len}; it must be -1 or more"
    for key in params.logit_bias or ():
        if not 0 <= int(key) < vocab_size:
            return f"logit_bias names token {key}; token ids are 0 to {vocab_size - 1}"
    if params.min_new_tokens > 0 and req.tokenizer is None:
        return "min_new_tokens needs the server's tokenizer; leave it out"
    return _processor(req.custom_logit_processor)


def _processor(text: str | None) -> str | None:
    """What is wrong with a custom logit processor: batches load it with no one to catch it. What
    it does when it is called is for those to answer for who allowed such processors."""
    if text is None:
        return None
    try:
        CustomLogitProcessor.from_str(text)
    except Exception as error:
        return (
            f"custom_logit_processor cannot be loaded ({type(error).__name__}: {error}); send what "
            "CustomLogitProcessor.to_str() returns, of a class that this server can import"
        )
    return None
