"""A custom logit processor that makes a served model write a given text.

SGLang hands it the logits of every row that samples, with the row's request. Where the row's node
stands in the text decides which token is forced; the logits it would have sampled from are
appended to a file first, so that a test can compare them with a reference forward pass.
"""

import numpy as np
from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

from sglang_multiverse.patches.branch import branch_of
from sglang_multiverse.structure import parse


class Script(CustomLogitProcessor):
    """Reads ``custom_params``: ``script`` (ids of prompt and answer) and ``record`` (a file)."""

    def __call__(self, logits, custom_param_list):
        for row, params in zip(logits, custom_param_list, strict=True):
            if not params or "script" not in params:
                continue
            request = params["__req__"]
            branch = branch_of(request)
            if branch is None:  # a row that only writes KV
                continue
            node, script = branch.node, params["script"]
            # With overlap the newest token is not in node.tokens yet; the row's length is exact.
            own = request.kv.kv_committed_len - node.base
            at = start_of(node, parse(script, branch.tree.dialect)) + own
            if "record" in params:
                with open(params["record"], "ab") as file:
                    np.array([at], dtype=np.int32).tofile(file)
                    row.float().cpu().numpy().tofile(file)
            row.fill_(float("-inf"))
            row[script[at] if at < len(script) else params["eos"]] = 0.0
        return logits


def start_of(node, trace):
    """Offset in the script of the first of a node's own tokens."""
    if node.parent is None:
        return 0
    parent = node.parent
    region_start = start_of(parent, trace) + len(parent.tokens)
    for block, _ in trace.walk():
        if block.region_start == region_start:
            return block.paths[node.index].start
    raise AssertionError(f"the engine forked at {region_start}, the script does not")
