"""Natively parallel generation: one definition of structure, positions and visibility, shared by
data, training and serving."""

__version__ = "0.1.0"

#: The SGLang release the plugin was built and verified on; widened by running the suite.
SGLANG_VERSION = "0.5.23"
