"""The file of route tests: questions with what is expected of their decisions, read strictly from YAML."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from router_service.config import StrictModel, expand_environment, parse_model, read_yaml
from router_service.errors import ConfigError
from router_service.types import MAX_K, AnswerKind

__all__ = ["Expected", "ExpectedNames", "RouteCheck", "RouteTests", "load_route_tests"]


_ASKED = ("question", "options")


class ExpectedNames(StrictModel):
    """Which names must be among those found; at least one of the three."""

    any: tuple[str, ...] = ()
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> ExpectedNames:
        if not (self.any or self.all or self.none):
            raise ValueError("name something under `any`, `all` or `none`")
        return self

    @property
    def every_name(self) -> tuple[str, ...]:
        """All names, once each."""
        return tuple(dict.fromkeys((*self.any, *self.all, *self.none)))

    def problems(self, found: Iterable[str], what: str) -> list[str]:
        """What of it does not hold of the names found."""
        there = list(found)
        listed = ", ".join(there) or "none"
        problems = []
        if self.any and not set(self.any) & set(there):
            problems.append(f"{what}: none of {', '.join(self.any)} is there; found: {listed}")
        if missing := [name for name in self.all if name not in there]:
            problems.append(f"{what}: {', '.join(missing)} missing; found: {listed}")
        if unwanted := [name for name in self.none if name in there]:
            problems.append(f"{what}: {', '.join(unwanted)} must not be there; found: {listed}")
        return problems


class Expected(StrictModel):
    """What a decision must look like; at least one key."""

    experts: ExpectedNames | None = None
    skills: ExpectedNames | None = None
    category: str | None = None
    min_p_correct: float | None = Field(default=None, ge=0, le=1)
    min_score: float | None = None
    max_cost_usd: float | None = Field(default=None, ge=0)
    max_completions: int | None = Field(default=None, ge=1)
    is_fallback: bool | None = None
    aggregator: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Expected:
        if all(value is None for _, value in self):
            raise ValueError("an expectation is empty; expect something of the decision")
        return self


class _BudgetLimits(StrictModel):
    max_completions: int | None = Field(default=None, ge=1)
    max_cost_usd: float | None = Field(default=None, ge=0)
    max_output_tokens: int | None = Field(default=None, ge=1)


class RouteCheck(StrictModel):
    """One question and what is expected of its decision; its name is the question's text where it has none."""

    question: str = Field(min_length=1)
    expect: Expected
    name: str | None = None
    answer_kind: AnswerKind = AnswerKind.FREE
    options: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    k: int | None = Field(default=None, ge=1, le=MAX_K)
    recruiter: str | None = None
    aggregator: str | None = None
    budget: _BudgetLimits = _BudgetLimits()
    seed: int | None = None

    @model_validator(mode="after")
    def _shows_its_options(self) -> RouteCheck:
        if self.options and self.answer_kind is not AnswerKind.CHOICE:
            raise ValueError(
                f"options are shown with answer_kind `choice` only, and answer_kind is `{self.answer_kind}`; write "
                "`answer_kind: choice`, or leave the options out"
            )
        return self

    @property
    def title(self) -> str:
        """What it is called in reports."""
        return self.name or self.question


class RouteTests(StrictModel):
    """A file of checks, with the configuration, pool and artefact that they are about (seen from its folder)."""

    checks: tuple[RouteCheck, ...] = Field(min_length=1)
    config: str | None = None
    pool: str | None = None
    artefact: str | None = None


def load_route_tests(path: Path) -> RouteTests:
    """The checks in a YAML file; raises `ConfigError` naming every wrong key and value, and checks of one name."""
    data = read_yaml(path)
    try:
        data = _expanded(data)
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem.message}") from None
    tests = parse_model(RouteTests, data, str(path))
    titles = [check.title for check in tests.checks]
    twice = next((title for title in titles if titles.count(title) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: two checks are called {twice!r}; give each a `name` of its own")
    places = {key: _beside(path, value) for key in ("config", "pool", "artefact") if (value := getattr(tests, key))}
    return tests.model_copy(update=places)


def _expanded(data: Any) -> Any:
    """The document with references to the environment replaced, but for what is asked: "${x}^2$" is a formula."""
    asked = [_part(check, is_asked=True) for check in _checks(data)]
    if not asked:
        return expand_environment(data)
    others = expand_environment({**data, "checks": [_part(check, is_asked=False) for check in _checks(data)]})
    merged = [
        {**other, **mine} if isinstance(other, dict) else other
        for other, mine in zip(others["checks"], asked, strict=True)
    ]
    return {**others, "checks": merged}


def _checks(data: Any) -> list[Any]:
    checks = data.get("checks") if isinstance(data, dict) else None
    return checks if isinstance(checks, list) else []


def _part(check: Any, *, is_asked: bool) -> Any:
    if not isinstance(check, dict):
        return {} if is_asked else check
    return {key: value for key, value in check.items() if (key in _ASKED) == is_asked}


def _beside(path: Path, value: str) -> str:
    """A path as seen from the file that names it; a built-in pool's name stays."""
    there = path.parent / value
    return str(there) if there.exists() else value
