"""What a run leaves: rows, their mixture, the card, the report."""
