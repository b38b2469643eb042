"""Many completions, one answer: one file per aggregator; the file name is its registered name."""
