"""How good is it: datasets, grading, profiling, replay, baselines, metrics and performance benches."""
