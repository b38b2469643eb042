"""The reference page shows what the door really answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx

from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.config import EngineConfig, PartConfig
from router_service.http.app import create_app
from router_service.http.errors import ERRORS
from tests.router_service.http.echo_engine import echo

PAGE = (Path(__file__).parents[3] / "docs/reference/rest.md").read_text("utf-8")
MEASURED = {"query_id", "seed", "latency_s", "overhead_ms"}
SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}


async def report():
    """What three experts of the page's kind get reported."""
    said = {"ada": 'It is {{"answer": 42}}, I think.', "bob": '{{"answer": 42}}', "cyd": '{{"answer": "forty-two"}}'}
    pool = Pool(name="echoes", experts=tuple(echo(name, reply=text) for name, text in said.items()))
    parts = {name: PartConfig(name=part) for name, part in (("annotator", "blank"), ("recruiter", "all"))}
    engine = build_engine(EngineConfig(**parts, aggregator=PartConfig(name="majority")), pool=pool)
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": "What is 6 * 7?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}},
    }
    transport = httpx.ASGITransport(app=create_app(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        return (await client.post("/v1/chat/completions", json=body)).json()["enlist"]


def shown(real, page):
    """`real` as far as the page shows it: lists whole, of objects the names that stand there; clocks as they stand."""
    if isinstance(page, dict):
        return {name: page[name] if name in MEASURED else shown(real[name], page[name]) for name in page}
    if isinstance(page, list):
        assert len(real) == len(page)
        return [shown(r, p) for r, p in zip(real, page, strict=True)]
    return round(real, 12) if isinstance(real, float) and isinstance(page, float) else real


def rounded(page):
    return json.loads(json.dumps(page), parse_float=lambda text: round(float(text), 12))


async def test_the_example_of_the_enlist_field_is_what_comes_out():
    [example] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    page, real = json.loads(example), await report()
    assert shown(real, page) == rounded(page)
    assert list(page) == list(real), "every name is shown, in order"
    assert list(page["experts"][0]) == list(real["experts"][0])
    assert list(page["experts"][0]["completions"][0]) == list(real["experts"][0]["completions"][0])


def test_every_code_stands_in_the_table():
    table = re.findall(r"^\| (`[^|]+) \| (\d+) \|", PAGE, re.MULTILINE)
    told = {code: int(status) for codes, status in table for code in re.findall(r"`(\w+)`", codes)}
    kept_inside = {"client_disconnected"}
    assert told == {code: kind.status for code, kind in ERRORS.items() if code not in kept_inside}
