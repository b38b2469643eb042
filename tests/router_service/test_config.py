"""Configuration is strict: unknown keys, missing variables and wrong values are named, secrets are not shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from router_service.config import EngineConfig, cache_folder, expand_environment, load_config, parse_model
from router_service.errors import ConfigError


def test_defaults_without_a_file() -> None:
    config = load_config(None)
    assert (config.pool, config.recruiter.name, config.k) == ("local", "symbolic", 3)


def test_a_bare_name_is_a_part(tmp_path: Path) -> None:
    file = tmp_path / "enlist.yaml"
    file.write_text("recruiter: fixed\naggregator: {name: weighted, options: {answers: 4}}\n")
    config = load_config(file)
    assert config.recruiter.name == "fixed"
    assert config.aggregator.options == {"answers": 4}


def test_relative_paths_are_the_files_own(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    file = tmp_path / "enlist.yaml"
    file.write_text("artefact: profiles\n")
    assert load_config(file).artefact == tmp_path / "profiles"


def test_every_problem_is_listed_with_the_nearest_key() -> None:
    data = {"pol": "x", "dispatch": {"quorom": 2, "backoff_max_s": -1}, "k": 0}
    with pytest.raises(ConfigError) as caught:
        parse_model(EngineConfig, data, "enlist.yaml")
    text = caught.value.message
    for expected in ("enlist.yaml", "Did you mean 'pool'", "Did you mean 'quorum'", "backoff_max_s", "k:"):
        assert expected in text


def test_secrets_are_not_shown() -> None:
    from router_service.config import StrictModel

    class Door(StrictModel):
        """A model with a secret."""

        api_key: int
        """Wrongly typed on purpose."""

    with pytest.raises(ConfigError) as caught:
        parse_model(Door, {"api_key": "sk-very-secret"}, "door.yaml")
    assert "sk-very-secret" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${HOST}", "h"),
        ("http://${HOST}:${PORT:-80}/v1", "http://h:80/v1"),
        ("os.environ/HOST", "h"),
        ("${EMPTY:-d}", "d"),
        ("${NOPE:-}", ""),
        ("plain $HOME", "plain $HOME"),
    ],
)
def test_environment_references(text: str, expected: str) -> None:
    assert expand_environment({"a": [text]}, {"HOST": "h", "EMPTY": ""}) == {"a": [expected]}


@pytest.mark.parametrize("text", ["${NOPE}", "os.environ/NOPE"])
def test_a_missing_variable_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="'NOPE' is not set"):
        expand_environment(text, {})


@pytest.mark.parametrize("content", ["pool: [", "- a\n- b\n", "k: many\n"])
def test_unusable_files_name_themselves(tmp_path: Path, content: str) -> None:
    file = tmp_path / "enlist.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"enlist\.yaml"):
        load_config(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENLIST_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ENLIST_CACHE")
    assert cache_folder().name == "enlist"
