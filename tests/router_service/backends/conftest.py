"""One real vLLM engine for all slow tests of the backends: it takes a third of a minute to start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from router_service.backends.vllm import Vllm
from tests.router_service.backends.real_engine import local_experts, real_python


@pytest.fixture(scope="session")
def real_vllm() -> Iterator[Vllm]:
    """The backend, knowing all adapters of the built-in pool before its first engine starts."""
    backend = Vllm(python=real_python(), devices=[{"name": "cpu"}], threads=1)
    for expert in local_experts("vllm").values():
        backend.check(expert)
    yield backend
    asyncio.run(backend.aclose())
