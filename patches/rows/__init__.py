"""Rows of a forward batch: their requests, slots, positions, penalties and guard."""
