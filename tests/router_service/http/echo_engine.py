"""The real engine over the `echo` backend: nothing is faked but what the experts say."""

from __future__ import annotations

from aggregators.first import First
from aggregators.majority import Majority
from experts_registry.pool import Pool
from router_service.backends.echo import Echo
from router_service.dispatch.runner import Runner
from router_service.engine import Engine, EngineDefaults
from router_service.types import Expert, ExpertLimits, Prices
from tests.router_service.parts import Everyone, FakeAnnotator, Named, Shelf, Writer


def echo(expert_id: str, **options: str | float) -> Expert:
    return Expert(
        id=expert_id,
        model=f"echo/{expert_id}",
        backend="echo",
        prices=Prices(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0),
        options=options,
        limits=ExpertLimits(max_attempts=1),
    )


EXPERTS = (
    echo("parrot"),
    echo("cuckoo"),
    echo("snail", latency_s=30.0),
    echo("crow", fail_rate=1.0, fail_code="expert_refused"),
)
QUICK = ("parrot", "cuckoo")


def echo_engine(*experts: Expert) -> Engine:
    """`everyone` asks parrot and cuckoo; the slow and the failing one are asked by name."""
    pool = Pool(name="echoes", experts=experts or EXPERTS)
    return Engine(
        pool=pool,
        annotator=FakeAnnotator(),
        recruiters=Shelf({"everyone": Everyone(QUICK), "named": Named()}),
        aggregators=Shelf({"majority": Majority(), "first": First(), "writer": Writer()}),
        runner=Runner(experts={expert.id: expert for expert in pool.experts}, backends={"echo": Echo()}),
        defaults=EngineDefaults(recruiter="everyone", aggregator="majority"),
    )
