"""LiteLLM's `model_list`: what becomes of each key."""

from __future__ import annotations

from pathlib import Path

import pytest

from experts_registry.pool import parse_pool
from router_service.errors import ConfigError
from router_service.types import Prices, Secret


def pool_of(*deployments, **sections):
    return parse_pool({"model_list": list(deployments), **sections}, "proxy", Path("/"))


def deployment(name="gpt", info=None, **parameters):
    return {
        "model_name": name,
        "litellm_params": {"model": f"openai/{name}", **parameters},
        "model_info": info or {},
    }


def test_a_deployment_is_an_expert(monkeypatch):
    monkeypatch.setenv("KEY", "sk-1")
    pool = pool_of(
        deployment(
            "my-alias",
            {
                "id": "dep-1",
                "mode": "chat",
                "max_input_tokens": 4000,
                "max_output_tokens": 8000,
                "supports_vision": True,
            },
            api_base="http://server/v1",
            api_key="os.environ/KEY",
            api_version="2024-02-01",
            rpm=100,
            tpm=1000,
            weight=2,
            timeout=30,
            max_retries=4,
            max_parallel_requests=3,
            temperature=0.2,
            input_cost_per_token=1e-6,
            output_cost_per_token=4e-6,
        ),
        router_settings={"num_retries": 2},
        general_settings={"master_key": "os.environ/MASTER"},
    )
    (expert,) = pool.experts
    assert (expert.id, expert.model, expert.backend) == ("my-alias", "openai/my-alias", "litellm")
    assert expert.address == "http://server/v1" and expert.api_key == Secret("sk-1")
    assert expert.prices == Prices(input_usd_per_mtok=1.0, output_usd_per_mtok=4.0)
    assert (expert.context_window, expert.max_output_tokens) == (4000, 4000)
    assert expert.modalities == {"text", "image"} and expert.sampling.temperature == 0.2
    assert expert.limits.timeout_s == 30 and expert.limits.max_attempts == 5 and expert.limits.max_concurrency == 3
    assert expert.options == {"api_version": "2024-02-01"}
    text = "\n".join(pool.warnings)
    assert "rpm, tpm, weight" in text and "general_settings, router_settings" in text


def test_deployments_of_one_name_are_told_apart():
    pool = pool_of(deployment("a"), deployment("a"), deployment("a-2"), deployment("a"))
    assert pool.ids == ("a", "a-3", "a-2", "a-4")


def test_an_unknown_key_names_the_nearest_and_the_deployment():
    with pytest.raises(ConfigError) as caught:
        pool_of(deployment("a", api_bse="x"), deployment("b", temprature=1))
    text = caught.value.message
    assert "'a'" in text and "Did you mean 'api_base'" in text and "Did you mean 'temperature'" in text


def test_an_unknown_section_names_the_nearest():
    with pytest.raises(ConfigError, match="router_settngs"):
        pool_of(deployment(), router_settngs={})


def test_a_half_known_price_is_unknown():
    pool = pool_of(deployment(input_cost_per_token=1e-6))
    assert pool.experts[0].prices is None
    assert "output_cost_per_token is not given" in pool.warnings[0]


def test_what_does_not_chat_is_left_out():
    pool = pool_of(deployment("a"), deployment("embedder", {"mode": "embedding"}))
    assert pool.ids == ("a",) and "'embedding'" in pool.warnings[0]


def test_a_wildcard_is_refused():
    with pytest.raises(ConfigError, match="wildcard"):
        pool_of(deployment("openai/*"))


def test_prices_of_the_model_information_count():
    info = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0, "my_note": "anything"}
    assert pool_of(deployment("a", info)).experts[0].prices == Prices(input_usd_per_mtok=0, output_usd_per_mtok=0)


def test_the_provider_becomes_a_part_of_the_model():
    named = {"model_name": "a", "litellm_params": {"model": "llama", "custom_llm_provider": "ollama"}}
    prefixed = {"model_name": "b", "litellm_params": {"model": "ollama/llama", "custom_llm_provider": "ollama"}}
    assert [e.model for e in pool_of(named, prefixed).experts] == ["ollama/llama"] * 2


def test_secrets_of_cloud_providers_are_named_and_not_shown():
    pool = pool_of(deployment("a", aws_secret_access_key="hunter2-hunter2", aws_region_name="eu"))
    assert "aws_region_name, aws_secret_access_key" in pool.warnings[0]
    assert "hunter2" not in repr(pool)
