"""Turns a replay report into one self-contained HTML page: verdicts, tables, curves, calibration, audits, settings."""
