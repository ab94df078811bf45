"""What the gates allow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GateOptions:
    """Bounds and switches of the gates. The defaults are those of curation.

    Attributes:
        max_depth: most blocks around one sentence.
        max_branches: most paths of a block.
        require_block: a text without a block is rejected.
        require_complete: a text cut before its ``</Think>`` is rejected.
        require_cue: a block without the dialect's cue line before it is rejected.
        max_distance: largest normalised edit distance between source and flattened text.
        window: characters of source per window of the content gate.
        max_window_distance: largest share of a window that may be edited.
        min_kept: smallest share of a path's vocabulary that its rewriting keeps.
        faithful: a rewritten path must state what it stated before, and nothing else.
        strict_coverage: the document must hold every source sentence as it stands.
        independence: run the lexical independence gate.
        answer_timeout: seconds of processor time given to the comparison of two answers.
    """

    max_depth: int = 2
    max_branches: int = 16
    require_block: bool = True
    require_complete: bool = True
    require_cue: bool = True
    max_distance: float = 0.2
    window: int = 600
    max_window_distance: float = 0.6
    min_kept: float = 0.5
    faithful: bool = True
    strict_coverage: bool = False
    independence: bool = True
    answer_timeout: float = 10.0


#: The defaults.
CURATION = GateOptions()

#: For what a model wrote rather than for what it shall learn from: cut texts, texts without a
#: block and deeper nesting are accepted, the cue may be worded freely.
MODEL_OUTPUT = GateOptions(
    max_depth=4,
    require_block=False,
    require_complete=False,
    require_cue=False,
    independence=False,
)
