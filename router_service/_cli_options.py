"""Command-line options as dataclasses: a command takes one object, and options shared by many are written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, get_type_hints

import typer

from router_service.types import MAX_K

if TYPE_CHECKING:
    from router_service.config import EngineConfig

__all__ = ["EngineOptions", "JsonOption", "QuestionOptions", "takes"]

O = TypeVar("O")  # noqa: E741  (an options class)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text and tables.")]


def takes(options: type[O]) -> Callable[[Callable[[O], None]], Callable[..., None]]:
    """Decorator: a command that takes a keyword-only dataclass, each field an annotated command-line parameter."""
    hints = get_type_hints(options, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(options)  # type: ignore[arg-type]
    ]

    def wrap(command: Callable[[O], None]) -> Callable[..., None]:
        def run(**given: object) -> None:
            command(options(**given))

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return wrap


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What every command that needs an engine understands; each option given replaces the configuration's."""

    config: Annotated[Path | None, typer.Option(help="Configuration file (YAML).", show_default=False)] = None
    pool: Annotated[
        str | None, typer.Option(help="Built-in pool or pool file; 'local' where nothing says.", show_default=False)
    ] = None
    artefact: Annotated[Path | None, typer.Option(help="Folder written by `enlist profile`.", show_default=False)] = (
        None
    )
    recruiter: Annotated[str | None, typer.Option(help="Who chooses the experts.", show_default=False)] = None
    aggregator: Annotated[
        str | None, typer.Option(help="What makes one answer of the completions.", show_default=False)
    ] = None
    k: Annotated[int | None, typer.Option(min=1, max=MAX_K, help="Completions per question.", show_default=False)] = (
        None
    )
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", show_default=False)] = None

    def engine_config(self) -> EngineConfig:
        """The configuration file's settings (or the defaults) with these options over them."""
        from router_service.config import PartConfig, load_config

        config = load_config(self.config)
        given: dict[str, object] = {
            name: getattr(self, name) for name in ("pool", "artefact", "k", "seed") if getattr(self, name) is not None
        }
        for part in ("recruiter", "aggregator"):
            name = getattr(self, part)
            if name is not None and name != getattr(config, part).name:
                given[part] = PartConfig(name=name)
        if self.k is not None:  # what is said on the command line goes before the file's option of the recruiter
            recruiter = given.get("recruiter", config.recruiter)
            assert isinstance(recruiter, PartConfig)
            options = {name: value for name, value in recruiter.options.items() if name != "k"}
            given["recruiter"] = recruiter.model_copy(update={"options": options})
        return config.model_copy(update=given)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOptions(EngineOptions):
    """A question and what is known of its answer and its budget."""

    as_json: JsonOption = False

    question: Annotated[str, typer.Argument(help="The question, in quotes.", show_default=False)]
    kind: Annotated[
        str | None, typer.Option(help="How the answer is written: free, choice, number, literal, code, json.")
    ] = None
    option: Annotated[
        list[str] | None, typer.Option(help="One option of a multiple choice; repeat it, in order.", show_default=False)
    ] = None
    max_completions: Annotated[
        int | None, typer.Option(min=1, help="Budget: completions in all.", show_default=False)
    ] = None
    max_cost_usd: Annotated[float | None, typer.Option(min=0, help="Budget: US dollars.", show_default=False)] = None
    deadline_s: Annotated[float | None, typer.Option(min=0, help="Budget: seconds.", show_default=False)] = None
