"""Brings public recordings of model answers into the replay format: one module per layout they are published in."""
