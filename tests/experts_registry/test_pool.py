"""Pool files: what is read, what is refused, and how the refusal reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experts_registry.local.weights import adapter_names
from experts_registry.pool import built_in_pools, load_pool, parse_pool
from router_service.errors import ConfigError, UnknownNameError
from router_service.types import Prices, Sampling, Secret

HERE = Path("/pools")


def pool_of(*experts, **rest):
    return parse_pool({"experts": list(experts), **rest}, "test", HERE)


def entry(expert_id="a", **rest):
    return {"id": expert_id, "model": "m", "backend": "echo", **rest}


def problem_of(*experts, **rest):
    with pytest.raises(ConfigError) as caught:
        pool_of(*experts, **rest)
    return caught.value.message


def test_a_full_entry_is_read(tmp_path):
    path = tmp_path / "team.yaml"
    path.write_text(
        """
name: team
defaults:
  backend: openai
  address: http://localhost:8000/v1
  sampling: {temperature: 0, max_tokens: 64}
experts:
  - id: general
    model: org/base
    api_key: ${TEAM_KEY:-sk-default}
    prices: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}
    context_window: 8192
    max_output_tokens: 1024
    modalities: [text, image]
    parameters_b: 7
    memory_gib: 15.5
    energy_j: 120
    latency_s: 1.5
    licence: apache-2.0
    released: 2025-01-31
    persona: You are terse.
    description: knows a bit of everything
    sampling: {max_tokens: 32, stop: "###"}
    limits: {max_concurrency: 2, timeout_s: 5}
    options: {top_k: 5, fast: true}
  - {id: law, model: org/base, lora_base: org/base, adapter: adapters/law, enabled: false}
"""
    )
    pool = load_pool(path)
    general, law = pool.experts
    assert pool.name == "team" and pool.ids == ("general", "law") and pool.enabled == (general,)
    assert general.api_key == Secret("sk-default") and "sk-default" not in repr(pool)
    assert general.prices == Prices(input_usd_per_mtok=0.1, output_usd_per_mtok=0.4)
    assert general.sampling == Sampling(temperature=0, max_tokens=32, stop=("###",))
    assert general.limits.max_concurrency == 2 and general.limits.max_attempts == 3 and general.limits.timeout_s == 5
    assert general.modalities == {"text", "image"} and general.options == {"top_k": 5, "fast": True}
    assert (general.energy_j, general.latency_s, general.licence) == (120, 1.5, "apache-2.0")
    assert general.released == "2025-01-31" and (law.energy_j, law.latency_s, law.released) == (None, None, None)
    assert law.adapter == str(tmp_path / "adapters" / "law") and law.address == "http://localhost:8000/v1"
    assert law.prices is None and not law.is_enabled
    assert pool.expert("law") is law
    with pytest.raises(UnknownNameError, match="Did you mean 'general'"):
        pool.expert("generl")


def test_replacing_the_experts_replaces_the_lookup():
    pool = pool_of(entry("a"), entry("b"))
    fewer = replace(pool, experts=pool.experts[:1])
    with pytest.raises(UnknownNameError):
        fewer.expert("b")


def test_every_problem_is_reported_at_once():
    text = problem_of(
        entry("a", prices={"input_usd_per_mtok": -1, "ouput_usd_per_mtok": 1}),
        entry("b", adaptor="x"),
        entry("c", adapter="x"),
        entry("c", sampling={"temperature": "hot"}),
        entry("auto/best"),
        {"model": "m", "backend": "echo"},
    )
    assert "prices.input_usd_per_mtok" in text and "Did you mean 'output_usd_per_mtok'" in text
    assert "expert 'b'" in text and "Did you mean 'adapter'" in text and "max_output_tokens" in text
    assert "adapter" in text and "needs lora_base" in text
    assert "expert 'c' is listed 2 times" in text and "sampling.temperature" in text and "'hot'" in text
    assert "ask for routing" in text
    assert "expert number 6" in text and "id" in text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"context_window": 0}, "context_window"),
        ({"context_window": 10, "max_output_tokens": 11}, "is more than context_window, 10"),
        ({"memory_gib": -1}, "memory_gib"),
        ({"parameters_b": float("nan")}, "parameters_b"),
        ({"energy_j": -1}, "energy_j"),
        ({"latency_s": 0}, "latency_s"),
        ({"licence": ""}, "licence"),
        ({"released": "last May"}, "released"),
        ({"modalities": ["image"]}, "must include 'text'"),
        ({"modalities": ["text", "smell"]}, "'text', 'image' or 'audio'"),
        ({"limits": {"max_attempts": 0}}, "limits.max_attempts"),
        ({"sampling": {"top_p": 1.5}}, "sampling.top_p"),
        ({"options": {"x": [1]}}, "options.x"),
        ({"id": "two words"}, "letter or digit"),
        ({"prices": {"input_usd_per_mtok": 1}}, "prices.output_usd_per_mtok"),
    ],
)
def test_a_wrong_value_is_named(fields, said):
    assert said in problem_of(entry(**fields))


def test_a_secret_never_shows_in_a_problem():
    assert "hunter2" not in problem_of(entry(api_key=["hunter2"]))


def test_an_empty_pool_is_refused():
    assert "experts" in problem_of()
    with pytest.raises(ConfigError, match="mapping"):
        parse_pool([], "test", HERE)


def test_unknown_keys_in_defaults_are_reported_once():
    text = problem_of(entry("a"), entry("b"), defaults={"adress": "http://x"})
    assert text.count("adress") == 1 and "Did you mean 'address'" in text


def test_null_takes_a_default_away():
    pool = pool_of(
        entry("tuned"),
        entry("base", adapter=None, lora_base=None),
        defaults={"lora_base": "./weights", "adapter": "hf://org/lora"},
    )
    tuned, base = pool.experts
    assert (tuned.lora_base, tuned.adapter) == ("/pools/weights", "hf://org/lora")
    assert (base.lora_base, base.adapter) == (None, None)


def test_a_missing_variable_names_itself_and_its_expert(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    text = problem_of(entry("a", api_key="os.environ/NO_SUCH_KEY"))
    assert "expert 'a'" in text and "'NO_SUCH_KEY' is not set" in text
    off = pool_of(entry("a"), entry("b", api_key="os.environ/NO_SUCH_KEY", enabled=False)).expert("b")
    assert off.api_key is None and not off.is_enabled


def test_a_missing_variable_in_the_defaults_concerns_only_who_takes_it(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    defaults = {"api_key": "os.environ/NO_SUCH_KEY", "persona": "You are terse."}
    (own,) = pool_of(entry("a", api_key="EMPTY"), defaults=defaults).experts
    assert own.api_key == Secret("EMPTY") and own.persona == "You are terse."
    text = problem_of(entry("a", api_key="EMPTY"), entry("b"), defaults=defaults)
    assert "pool 'test'" in text and "expert 'b': api_key" in text and "'NO_SUCH_KEY'" in text and "'a'" not in text
    text = problem_of(entry("a", api_key="EMPTY"), defaults={**defaults, "persone": "?"})
    assert "'defaults' of pool 'test'" in text and "Did you mean 'persona'" in text


@pytest.mark.parametrize("key", ["${MY-KEY}", "sk-${", "$OPENAI_API_KEY"])
def test_a_key_that_refers_to_nothing_is_refused_and_not_shown(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    for text in (problem_of(entry("a", api_key=key)), problem_of(entry("a"), defaults={"api_key": key})):
        assert "expert 'a': api_key" in text and "${NAME}" in text
        assert key not in text and "MY-KEY" not in text and "sk-" not in text
    assert pool_of(entry("a", api_key=key, enabled=False), entry("b")).experts[0].api_key is None


def test_an_empty_key_is_no_key():
    assert pool_of(entry(api_key="")).experts[0].api_key is None


def test_a_key_in_the_file_is_warned_about_without_showing_it():
    (warning,) = pool_of(entry(api_key="sk-0123456789abcdefgh"), entry("b", api_key="EMPTY")).warnings
    assert "expert 'a'" in warning and "os.environ" in warning and "0123" not in warning


def test_an_unknown_pool_names_both_possibilities(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_pool(str(tmp_path / "none.yaml"))
    assert "no built-in pool" in caught.value.message and str(tmp_path) in caught.value.message


def test_a_folder_is_its_pool_file_and_problems_name_the_file(tmp_path):
    (tmp_path / "pool.yaml").write_text("experts: [{id: a, model: m, backend: echo}]")
    assert load_pool(tmp_path).name == tmp_path.name
    (tmp_path / "pool.yaml").write_text("experts: [{id: a, model: m}]")
    with pytest.raises(ConfigError, match=r"pool\.yaml.*(.|\n)*backend"):
        load_pool(tmp_path)
    (tmp_path / "pool.yaml").write_text("experts: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_pool(tmp_path)


def test_the_built_in_pool_has_one_expert_per_adapter_and_a_generalist():
    pool = load_pool("local")
    assert "local" in built_in_pools() and pool.name == "local" and not pool.warnings
    specialists = [expert for expert in pool.experts if expert.adapter is not None]
    assert sorted(Path(expert.adapter).name for expert in specialists) == adapter_names()
    assert all(expert.id == Path(expert.adapter).name for expert in specialists)
    (generalist,) = [expert for expert in pool.experts if expert.adapter is None]
    bases = {expert.lora_base for expert in specialists} | {generalist.model}
    assert len(bases) == 1 and {expert.backend for expert in pool.experts} == {"transformers"}
    assert all(Path(expert.adapter).is_dir() for expert in specialists)


def test_a_near_name_of_a_built_in_pool_is_suggested():
    with pytest.raises(ConfigError, match="Did you mean 'local'"):
        load_pool("locl")


def test_a_pool_file_of_the_working_folder_is_named_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pool.yaml").write_text("experts: [{id: a, model: m, backend: echo}]\n")
    monkeypatch.chdir(tmp_path)
    assert load_pool("pool.yaml").name == tmp_path.name
