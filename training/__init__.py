"""Training on forked and joined text: attention seam, collator and trainer."""
