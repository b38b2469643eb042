"""From panel to answer: whom an aggregator may ask, what it may spend, and when it need not wait any longer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from experts_registry.pool import Pool
from router_service.types import Answer, Ask, Panel, RouteControls, RouteResponse, user_query
from tests.router_service.parts import Everyone, FakeBackend, engine_of, pool_of


@dataclass
class Onlooker:
    """Keeps the panels it is shown, and answers with the first member's text."""

    keeps_text: bool = True
    panels: list[Panel] = field(default_factory=list)

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        self.panels.append(panel)
        return Answer(text=panel.members[0].text, aggregator="onlooker")


# --- whom an aggregator may ask ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("controls", "askable"),
    [
        (RouteControls(), "abd"),
        (RouteControls(experts_denied=("b",)), "ad"),
        (RouteControls(experts_allowed=("d", "a")), "ad"),
        (RouteControls(experts_allowed=("a", "b", "c"), experts_denied=("b",)), "a"),
    ],
)
async def test_a_panel_names_whom_the_query_lets_be_asked(controls: RouteControls, askable: str) -> None:
    pool = pool_of("a", "b", "c", "d", context_window=4096)
    pool = Pool(name="test", experts=tuple(replace(e, is_enabled=e.id != "c") for e in pool.experts))
    onlooker = Onlooker()
    engine = engine_of(FakeBackend(), pool=pool, recruiter=Everyone(("a",)), aggregators={"onlooker": onlooker})
    query = replace(user_query("q", "hi"), controls=replace(controls, aggregator="onlooker"))
    (response,) = await engine.run([query])
    assert isinstance(response, RouteResponse)
    assert "".join(onlooker.panels[0].experts) == askable
    assert all(expert.context_window == 4096 for expert in onlooker.panels[0].experts.values())
