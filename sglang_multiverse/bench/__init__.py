"""``multiverse bench``: what fork and join cost and bring, measured on the machine at hand."""
