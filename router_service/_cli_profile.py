"""The command `profile`: what is learnt from graded answers before any question is routed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router_service._cli_adaptive import end_with_failures, print_adaptive
from router_service._cli_engine import with_engine
from router_service._cli_options import EngineOptions, JsonOption
from router_service._cli_output import print_json, print_lines, print_table
from router_service._cli_progress import progress_bar

if TYPE_CHECKING:
    from eval.profiling import ProfilingReport
    from eval.profiling_adaptive import AdaptiveReport
    from router_service.config import EngineConfig
    from router_service.engine import Engine
    from router_service.types import Question
    from skills.annotators.llm import Llm

__all__ = ["ProfileOptions", "profile"]

_SKILL_SOURCES = ("recorded", "category")
_QUESTIONS, _CONFIDENCE = 60, 0.9
"""Of adaptive profiling, where nothing else is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """Whom to profile on what."""

    data: Annotated[
        Path | None, typer.Option(help="Fit questions (JSONL) with answers and skills.", show_default=False)
    ] = None
    out: Annotated[Path, typer.Option(help="Folder of the artefact; made, or gone on with.", show_default=False)]
    pool: Annotated[str | None, typer.Option(help="Built-in pool or pool file.", show_default=False)] = None
    config: Annotated[Path | None, typer.Option(help="Configuration file (YAML).", show_default=False)] = None
    expert: Annotated[
        list[str] | None, typer.Option(help="Only this expert; repeat it for several.", show_default=False)
    ] = None
    samples: Annotated[int, typer.Option(min=1, help="Completions per expert and question.")] = 1
    skills: Annotated[str, typer.Option(help="Skills of the questions: recorded, or their category.")] = "recorded"
    annotator: Annotated[str | None, typer.Option(help="'llm' lets an expert name the skills.", show_default=False)] = (
        None
    )
    annotator_expert: Annotated[
        str | None, typer.Option(help="The expert that names the skills.", show_default=False)
    ] = None
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Ask new experts a few chosen questions; estimate the rest.")
    ] = False
    questions: Annotated[
        int | None, typer.Option(min=1, help="With --adaptive: most questions per expert (60).", show_default=False)
    ] = None
    confidence: Annotated[
        float | None, typer.Option(help="With --adaptive: what the error bars cover (0.9).", show_default=False)
    ] = None
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", show_default=False)] = None
    as_json: JsonOption = False


def profile(options: ProfileOptions) -> None:
    """Find out which expert is good at what; run again, it asks only what is missing."""
    from router_service.errors import ConfigError

    if options.adaptive:
        _profile_a_few(options)
        return
    if options.questions is not None or options.confidence is not None:
        raise ConfigError("--questions and --confidence are for --adaptive; without it every question is asked")
    if options.data is None:
        raise ConfigError("profile needs the fit questions: --data FILE.jsonl")
    annotator = _annotator(options)
    read = _questions(options)

    async def work(engine: Engine) -> ProfilingReport:
        from eval.profiling import ProfilingJob, profile_experts
        from eval.profiling_folder import ProfilingFolder

        with ProfilingFolder(options.out) as folder, progress_bar("profiling") as on_progress:
            questions = await _labelled(engine, folder.remembered(read), options=options, annotator=annotator)
            job = ProfilingJob(questions=questions, experts=tuple(options.expert or ()), samples=options.samples)
            return await profile_experts(engine, job, folder, on_progress=on_progress)

    _print_report(with_engine(_engine_config(options), work), options)


def _profile_a_few(options: ProfileOptions) -> None:
    """Profile new experts by chosen questions, from `--data` or of the artefact that is gone on with."""
    from router_service.errors import ConfigError

    if options.samples > 1:
        raise ConfigError(
            f"--adaptive asks each question once, and --samples is {options.samples}; leave one of them out"
        )
    annotator = _annotator(options)
    read = _questions(options)

    async def work(engine: Engine) -> AdaptiveReport:
        from eval.profiling_adaptive import AdaptiveJob, profile_adaptively
        from eval.profiling_folder import ProfilingFolder

        with ProfilingFolder(options.out) as folder, progress_bar("profiling") as on_progress:
            questions = await _labelled(engine, folder.remembered(read), options=options, annotator=annotator)
            job = AdaptiveJob(
                questions=questions,
                experts=tuple(options.expert or ()),
                n_questions=options.questions or _QUESTIONS,
                confidence=_CONFIDENCE if options.confidence is None else options.confidence,
            )
            return await profile_adaptively(engine, job, folder, on_progress=on_progress)

    print_adaptive(with_engine(_engine_config(options), work), options.out, as_json=options.as_json)


def _questions(options: ProfileOptions) -> list[Question]:
    from experts_registry.records import read_questions

    return read_questions(options.data) if options.data is not None else []


async def _labelled(
    engine: Engine, questions: list[Question], *, options: ProfileOptions, annotator: Llm | None
) -> tuple[Question, ...]:
    """The questions with skills; an expert names the missing ones where one was told to."""
    from eval.skill_labels import label_skills

    if not questions:
        return ()
    return tuple(await label_skills(engine, questions, by_category=options.skills == "category", annotator=annotator))


def _annotator(options: ProfileOptions) -> Llm | None:
    from router_service.errors import ConfigError, UnknownNameError

    if options.skills not in _SKILL_SOURCES:
        raise UnknownNameError("source of skills (--skills)", options.skills, _SKILL_SOURCES)
    if options.annotator is None and options.annotator_expert is None:
        return None
    if options.annotator not in (None, "llm"):
        raise UnknownNameError("annotator that can name skills (--annotator)", options.annotator, ("llm",))
    if options.skills == "category":
        raise ConfigError(
            "--skills category takes categories as the skills, and --annotator llm lets an expert name others; "
            "leave one of them out"
        )
    if options.annotator_expert is None:
        raise ConfigError("--annotator llm needs the expert that names the skills: --annotator-expert ID")
    from skills.annotators.llm import Llm

    return Llm(expert=options.annotator_expert)


def _engine_config(options: ProfileOptions) -> EngineConfig:
    """The configured engine, made to wait for every expert, to annotate nothing and to fit nothing."""
    from router_service.assembly import asking_only

    config = EngineOptions(config=options.config, pool=options.pool, seed=options.seed).engine_config()
    patient = config.dispatch.model_copy(update={"quorum": None})
    return asking_only(config).model_copy(update={"dispatch": patient})


def _print_report(report: ProfilingReport, options: ProfileOptions) -> None:
    from eval.profiling import accuracy_table

    columns, rows = accuracy_table(report.artefact)
    if options.as_json:
        print_json(
            {
                "artefact": options.out,
                "version": report.artefact.version,
                "new": report.n_new,
                "known": report.n_known,
                "accuracy": [dict(zip(columns, row, strict=True)) for row in rows],
                "failures": {name: {"count": n, "first": first} for name, (n, first) in report.failures.items()},
            }
        )
    else:
        print_table(f"Accuracy on {options.data.name if options.data else options.out}", columns, rows)
        print_lines(f"{options.out}: {report.n_new} new completions, {report.n_known} known before", style="dim")
    end_with_failures(report.failures)
