"""A progress bar on standard error where somebody is looking, and silence where not."""

from __future__ import annotations

from eval.progress import progress_bar

__all__ = ["progress_bar"]
