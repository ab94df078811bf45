"""Gates on what a text says: against its source, its answer, and path against path."""
