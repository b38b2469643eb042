"""Gathered operations end with their loop: whoever waits for one is told, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from router_service.store.gathering import Gathering


async def held(ops):
    await asyncio.sleep(3600)
    return ops


async def cancel_worker(gathering):
    gathering._task.cancel()
    await asyncio.wait([gathering._task])


async def test_whoever_waits_for_a_group_that_is_cancelled_is_told():
    gathering = Gathering(held)
    waiting = asyncio.create_task(gathering(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await cancel_worker(gathering)
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_a_loop_that_closes_waits_for_no_operation_of_a_cancelled_caller():
    """As a batch does that is interrupted: its last word is an operation, asked for while all tasks are cancelled."""
    said = []

    async def perform(ops):
        await asyncio.sleep(3600 if ops == ["first"] else 0)
        return ops

    async def caller(gathering):
        try:
            await gathering("first")
        finally:
            said.append(await gathering("last word"))

    async def main():
        task = asyncio.create_task(caller(Gathering(perform)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(asyncio.wait_for(main(), 20))  # what `main` leaves open is cancelled here
    assert said == ["last word"]
