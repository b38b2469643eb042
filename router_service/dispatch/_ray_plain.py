"""Lets any backend that answers by itself be resident: one instance for each model, made and given up as it is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from router_service.backends.base import Backend, Device, Footprint, ResidentBackend
from router_service.dispatch._closing import closing
from router_service.errors import ExpertUnavailable
from router_service.types import Completion, Expert, ExpertBatch, TokenDelta

__all__ = ["as_resident"]

_DEVICE = "here"


def as_resident(make: Callable[[], Backend]) -> ResidentBackend:
    """The backend that `make` makes, as it is where it is resident, else with its models kept apart by instances."""
    backend = make()
    return backend if isinstance(backend, ResidentBackend) else _Instances(make, template=backend)


class _Instances(ResidentBackend):
    """One instance of a plain backend per model, on the one device of this process."""

    def __init__(self, make: Callable[[], Backend], *, template: Backend) -> None:
        self.extracts_answers = template.extracts_answers  # type: ignore[misc]  # a class's choice, told by an instance
        self._make = make
        self._template = template
        self._instances: dict[str, Backend] = {}

    def devices(self) -> tuple[Device, ...]:
        """This process."""
        return (Device(name=_DEVICE),)

    def footprint(self, expert: Expert) -> Footprint:
        """By the pool's `memory_gib`; experts of one model take turns."""
        model = expert.lora_base or expert.model
        return Footprint(model=model, turn=expert.id, memory_gib=expert.memory_gib)

    def check(self, expert: Expert) -> None:
        """What the wrapped backend says."""
        self._template.check(expert)

    async def load(self, expert: Expert, *, device: str) -> None:
        """An instance that has been given an empty batch: one that holds a model reads it then."""
        model = self.footprint(expert).model
        instance = self._instances.get(model) or self._make()
        try:
            async with closing(instance.complete(expert, ExpertBatch(expert_id=expert.id, assignments=()))) as pieces:
                async for _ in pieces:
                    pass
        except BaseException:
            self._instances.pop(model, None)
            with suppress(Exception):
                await instance.aclose()
            raise
        self._instances[model] = instance

    async def release(self, model: str, *, device: str, sleeps: bool = False) -> None:
        """Close the model's instance."""
        instance = self._instances.pop(model, None)
        if instance is not None:
            await instance.aclose()

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Completion | TokenDelta, None]:
        """What the model's instance says."""
        instance = self._instances.get(self.footprint(expert).model)
        if instance is None:
            message = f"the model of expert {expert.id!r} is not loaded on this device"
            raise ExpertUnavailable(message, expert_id=expert.id, retryable=True)
        async with closing(instance.complete(expert, batch)) as pieces:
            async for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        """Close all instances."""
        instances = [self._template, *self._instances.values()]
        self._instances.clear()
        for instance in instances:
            await instance.aclose()
