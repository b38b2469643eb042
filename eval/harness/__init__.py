"""Lets other people's evaluation harnesses ask an Enlist endpoint: lm-evaluation-harness and Inspect."""
