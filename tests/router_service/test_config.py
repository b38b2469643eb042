"""Configuration is strict: unknown keys, missing variables and wrong values are named, secrets are not shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from router_service.config import (
    EngineConfig,
    bare_reference,
    cache_folder,
    expand_environment,
    load_config,
    parse_model,
    read_yaml,
)
from router_service.errors import ConfigError, InvalidQuery
from router_service.types import RouteControls, Sampling


def test_defaults_without_a_file() -> None:
    config = load_config(None)
    assert (config.pool, config.recruiter.name, config.k) == ("local", "auto", 3)


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


def test_a_missing_variable_is_named_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^experts\.1\.api_key: environment variable 'NOPE' is not set"):
        expand_environment({"experts": [{}, {"api_key": "${NOPE}"}]}, {})


@pytest.mark.parametrize("text", ["${MY-KEY}", "${sk-very-secret", "a ${HOST} ${}", "${A:-${HOST}}", "${1ST}"])
def test_what_opens_no_reference_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^api_key: .*write \$\{NAME\}") as caught:
        expand_environment({"api_key": text}, {"HOST": "h"})
    assert text not in caught.value.message


def test_what_a_variable_holds_is_taken_as_it_is() -> None:
    assert expand_environment("${A}", {"A": "pass${word"}) == "pass${word"


@pytest.mark.parametrize(("text", "name"), [("$OPENAI_API_KEY", "OPENAI_API_KEY"), ("$1", None), ("a$B", None)])
def test_a_reference_as_the_shell_writes_it_is_recognised(text: str, name: str | None) -> None:
    assert bare_reference(text) == name


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ('pool: x\napi_key: "sk-secret-0123\n', "quoted scalar .line 2, column 10.: .*line 3, column 1"),
        ("api_key: !sk-secret 1\n", "line 1, column 10"),
        ("api_key: *sk-secret\n", "line 1, column 10"),
        ("api_key: sk-secret: x\n", "line 1, column 19"),
        ("api_key: @sk-secret\n", "line 1, column 10"),
        ("born: 2020-13-45\n", "month must be in 1..12"),
    ],
)
def test_a_slip_in_a_file_is_placed_and_its_text_not_shown(tmp_path: Path, content: str, where: str) -> None:
    file = tmp_path / "enlist.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=where) as caught:
        read_yaml(file)
    assert "sk-secret" not in caught.value.message and "enlist.yaml" in caught.value.message


@pytest.mark.parametrize(
    "content",
    ["experts: [a]\npool: x\nexperts: [b]\n", "a: {experts: 1, b: 2,\n experts: 3}\n", "{experts: 1, experts: 2}"],
)
def test_a_key_that_is_written_twice_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text(content)
    line = content.rstrip("\n").count("\n") + 1
    with pytest.raises(ConfigError, match=rf"'experts' is written twice, first in line 1;.*\(line {line}, column"):
        read_yaml(file)


def test_a_merged_key_may_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\n")
    assert read_yaml(file)["c"] == {"x": 3, "y": 1}


def test_k_is_bounded() -> None:
    with pytest.raises(ConfigError, match="k: Input should be less than or equal to 64"):
        parse_model(EngineConfig, {"k": 65}, "enlist.yaml")
    with pytest.raises(InvalidQuery, match="k is 65; ask for 1 to 64"):
        RouteControls(k=65)


def test_an_answer_has_room_for_a_token() -> None:
    with pytest.raises(InvalidQuery, match="max_tokens is 0; ask for 1 or more"):
        Sampling(max_tokens=0)


@pytest.mark.parametrize("content", ["pool: [", "pool: ${NO_SUCH_POOL}", "- a\n- b\n", "k: many\n"])
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
