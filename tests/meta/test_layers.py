"""An import may only point down the layers; within layer 4 only dispatch may look at the backends' contract."""

from __future__ import annotations

import graphlib

import pytest

from tests.meta.source import Module, imports_of, modules

LAYERS: tuple[tuple[str, ...], ...] = (
    ("router_service.types", "router_service.errors"),
    (
        "router_service.plugins",
        "router_service.config",
        "router_service.files",
        "router_service.artefacts",
        "router_service.estimation",
        "router_service.prompt_tokens",
    ),
    ("experts_registry", "skills", "aggregators"),
    ("router_service.recruit", "router_service.dispatch", "router_service.backends", "router_service.store"),
    (
        "router_service.engine",
        "router_service.answering",
        "router_service.flight",
        "router_service.assembly",
        "router_service.lessons",
        "router_service.admission",
        "router_service.decision_log",
    ),
    ("router_service.http", "router_service.client", "router_service.batch", "eval"),
    ("router_service.cli",),
)

ALLOWED_SIDEWAYS = {
    ("router_service.dispatch", "router_service.backends.base"),
    ("router_service.batch", "router_service.http"),
}
"""(room, module or room it may import): a runner must know what a backend is, and a batch line of OpenAI's shape is
read by the very schema the REST door uses."""

SAME_ROOM = {"router_service.errors", "router_service.types", "router_service.plugins", "router_service.config"}


def layer_and_room(name: str) -> tuple[int, str] | None:
    """The layer (1 at the bottom) and room of a module; None for the package's own `__init__`."""
    for number, rooms in enumerate(LAYERS, start=1):
        for room in rooms:
            private = room.rsplit(".", 1)
            underscored = f"{private[0]}._{private[1]}" if len(private) == 2 else room
            if name == room or name.startswith((f"{room}.", underscored)):
                return number, room
    return None


def violations(module: Module) -> list[str]:
    here = layer_and_room(module.name)
    if here is None:
        return []
    found = []
    for imported in imports_of(module):
        there = layer_and_room(imported)
        if there is None or there[1] == here[1]:
            continue
        is_down = there[0] < here[0]
        is_neighbour = there[0] == here[0] and (here[0] in (1, 2, 5))
        is_allowed = any(here[1] == room and imported.startswith(target) for room, target in ALLOWED_SIDEWAYS)
        if not (is_down or is_neighbour or is_allowed):
            found.append(f"{module.name} (layer {here[0]}) imports {imported} (layer {there[0]})")
    return found


def test_every_module_has_a_layer() -> None:
    homeless = [m.name for m in modules() if layer_and_room(m.name) is None and m.name != "router_service"]
    assert not homeless


def test_imports_point_down() -> None:
    assert not [problem for module in modules() for problem in violations(module)]


@pytest.mark.parametrize(
    ("importer", "text"),
    [
        ("skills.index", "import router_service.engine"),
        ("aggregators.majority", "import skills.base"),
        ("router_service.recruit.symbolic", "import router_service.backends.base"),
        ("router_service.recruit.symbolic", "from ..engine import Engine"),
        ("router_service.recruit.symbolic", "from .. import engine"),
        ("router_service.config", "from .engine import Engine"),
        ("experts_registry.pool", "from router_service import RouterClient"),
        ("skills.annotators.llm", "def later():\n    from router_service import Engine, Query"),
    ],
)
def test_the_check_can_fail(importer: str, text: str) -> None:
    import ast
    from pathlib import Path

    assert violations(Module(importer, Path("x.py"), ast.parse(text), text))


def test_no_import_cycles() -> None:
    graph = {module.name: {i for i in imports_at_import_time(module) if i != module.name} for module in modules()}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as cycle:
        pytest.fail(f"import cycle: {' -> '.join(cycle.args[1])}")


def imports_at_import_time(module: Module) -> set[str]:
    """Imports outside functions: the ones that can form a cycle."""
    import ast

    body = [node for node in module.tree.body if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    top = ast.Module(body=body, type_ignores=[])
    return set(imports_of(Module(module.name, module.path, top, module.text)))
