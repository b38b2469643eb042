"""The backend `litellm`: the package's replies, errors and prices, against a fake server; bad releases stay out."""

from __future__ import annotations

import importlib.util

import pytest

from router_service.backends.base import BACKENDS
from router_service.backends.litellm import Litellm, _priced, check_release
from router_service.errors import ConfigError, ExpertError, ExpertRefused, ExpertTimeout, ExpertUnavailable
from router_service.types import (
    Assignment,
    Completion,
    Expert,
    ExpertBatch,
    ExpertLimits,
    Prices,
    Secret,
    TokenDelta,
    Usage,
    user_query,
)
from tests.router_service.backends import upstream as fake
from tests.router_service.backends.cases import pieces
from tests.router_service.backends.upstream import Behaviour, Upstream

KEY = "sk-very-secret"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None, reason='pip install "enlist[litellm]" to run these tests'
)


def expert(address: str | None = None, model: str = "openai/fake", **fields) -> Expert:
    limits = ExpertLimits(timeout_s=fields.pop("timeout_s", 10.0))
    return Expert(id="E", model=model, backend="litellm", address=address, api_key=Secret(KEY), limits=limits, **fields)


async def asked(behaviour: Behaviour = fake.normal, *, timeout_s: float = 10.0, **fields) -> tuple[list, Upstream]:
    async with Upstream(behaviour).running() as upstream:
        backend = Litellm()
        assignment = Assignment(query=user_query("q", "hello world"), **fields)
        try:
            return await pieces(backend, expert(upstream.address, timeout_s=timeout_s), assignment), upstream
        finally:
            await backend.aclose()


async def test_the_request_is_the_one_that_was_meant() -> None:
    [completion], upstream = await asked(seed=5)
    [body] = upstream.bodies
    assert (body["model"], body["seed"], body["max_tokens"]) == ("fake", 5, 1024)
    assert body["messages"] == [{"role": "user", "content": "hello world"}]
    assert upstream.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert completion.text == "You said: hello world (end)"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (11, 7)


async def test_samples_travel_in_one_request_where_the_model_can() -> None:
    completions, upstream = await asked(samples=3)
    assert [c.sample for c in completions] == [0, 1, 2]
    assert [body.get("n") for body in upstream.bodies] == [3]
    completions, upstream = await asked(fake.refuse_n, samples=2)
    assert [body.get("n", 1) for body in upstream.bodies] == [2, 1, 1]
    assert len(completions) == 2


async def test_a_stream_is_passed_on_with_its_usage() -> None:
    items, _ = await asked(streams=True)
    assert "".join(item.text for item in items[:-1]) == items[-1].text == "You said: hello world (end)"
    assert items[-1].usage.completion_tokens == 7


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, ExpertRefused),
        (401, ExpertRefused),
        (404, ExpertRefused),
        (429, ExpertUnavailable),
        (500, ExpertUnavailable),
        (503, ExpertUnavailable),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_every_status_has_its_error_at_the_first_try(code: int, kind: type[ExpertError], streams: bool) -> None:
    body = {"error": {"message": f"no good, {KEY}"}}
    async with Upstream(fake.status(code, body, Retry_After="7")).running() as upstream:
        with pytest.raises(kind, match=f"HTTP {code}: .*no good") as caught:
            await pieces(Litellm(), expert(upstream.address), Assignment(query=user_query("q", "hi"), streams=streams))
        assert len(upstream.bodies) == 1
    assert KEY not in str(caught.value)
    assert caught.value.retry_after_s == (7 if code in (429, 500, 503) else None)


@pytest.mark.parametrize(
    "behaviour",
    [
        fake.cut_after(3),
        fake.cut_after(3, is_abrupt=True),
        fake.raw_lines("data: {broken", ""),
    ],
)
async def test_a_broken_stream_is_an_error_and_never_a_clean_stop(behaviour: Behaviour) -> None:
    async with Upstream(behaviour).running() as upstream:
        batch = ExpertBatch(expert_id="E", assignments=(Assignment(query=user_query("q", "hi"), streams=True),))
        with pytest.raises(ExpertUnavailable):
            async for item in Litellm().complete(expert(upstream.address), batch):
                assert isinstance(item, TokenDelta)


async def test_a_server_that_never_answers_is_a_timeout() -> None:
    with pytest.raises(ExpertTimeout):
        await asked(fake.hang, timeout_s=0.2)


async def test_prices_come_from_litellm_where_the_pool_has_none() -> None:
    usage = Usage(completions=1, prompt_tokens=1000, completion_tokens=1000, cost_usd=None)
    said = Completion(query_id="q", expert_id="E", text="x", usage=usage)
    known = _priced(said, expert(model="openai/gpt-4o-mini")).usage.cost_usd
    assert known == pytest.approx((0.15 + 0.60) / 1000)
    assert _priced(said, expert(model="openai/nobody-knows-this")).usage.cost_usd is None
    assert _priced(said, expert("http://own/v1", model="openai/gpt-4o-mini")).usage.cost_usd is None
    own = Prices(input_usd_per_mtok=1, output_usd_per_mtok=1)
    assert _priced(said, expert(model="openai/gpt-4o-mini", prices=own)).usage.cost_usd is None


def test_an_unknown_provider_is_named() -> None:
    backend = BACKENDS.create("litellm")
    backend.check(expert(model="anthropic/claude-sonnet-4-5"))
    with pytest.raises(ConfigError, match="no provider for the model 'nobody-knows-this'"):
        backend.check(expert(model="nobody-knows-this"))


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.107.0", "1.107.2", "1.107"])
def test_bad_releases_are_never_imported(version: str) -> None:
    with pytest.raises(ConfigError, match="malware; it was not imported"):
        check_release(version)


@pytest.mark.parametrize("version", ["1.82.9", "1.82.70", "1.106.2", "1.108.0", "2.107.0"])
def test_other_releases_pass(version: str) -> None:
    check_release(version)
