"""Where chains come from: reading rows of datasets and files, and splitting text into sentences."""
