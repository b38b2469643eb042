"""The command `eval convert`: a published recording becomes a dataset in the replay format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router_service._cli_output import print_note, print_table

if TYPE_CHECKING:
    from eval.convert.conversion import Conversion

__all__ = ["ConvertOptions", "convert"]

_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """What to convert, and how to split it."""

    layout: Annotated[str, typer.Argument(help="mmlu_pro, routellm, routerbench or zeroeval.", show_default=False)]
    source: Annotated[Path, typer.Argument(help="File or folder as published.", show_default=False)]
    out: Annotated[Path, typer.Argument(help="Folder to write the dataset to.", show_default=False)]
    fit_share: Annotated[float, typer.Option(help="Share of the questions to fit on; the others are judged.")] = 0.5
    split_seed: Annotated[int, typer.Option(help="Seed of the split; copies of a text stay on one side.")] = 0
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unusable records out, and say which.")] = False
    common_only: Annotated[
        bool, typer.Option("--common-only", help="Keep only questions that every model answered.")
    ] = False
    name: Annotated[str | None, typer.Option(help="Name of the dataset; the folder's where none is given.")] = None
    prices: Annotated[
        Path | None,
        typer.Option(help="YAML: model to usd_per_mtok_in, usd_per_mtok_out, basis.", show_default=False),
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset that is there.")] = False


def convert(options: ConvertOptions) -> None:
    """Turn a published recording of model answers into a dataset for `eval replay`."""
    from eval.convert.conversion import ConversionPlan
    from eval.convert.conversion import convert as run_conversion

    plan = ConversionPlan(
        layout=options.layout,
        fit_share=options.fit_share,
        seed=options.split_seed,
        skips_bad=options.skip_bad,
        keeps_common_only=options.common_only,
        name=options.name,
        prices=options.prices,
        overwrites=options.overwrite,
    )
    _print(run_conversion(options.source, options.out, plan))


def _print(conversion: Conversion) -> None:
    total = sum(conversion.splits.values())
    splits = ", ".join(f"{split} {count}" for split, count in sorted(conversion.splits.items()))
    rows = [[model, count, total - count] for model, count in conversion.answered.items()]
    print_table(f"{conversion.folder}: {total} questions ({splits})", ["model", "answered", "missing"], rows)
    if any(missing for _, _, missing in rows):
        print_note("warning: a missing answer counts as wrong; --common-only keeps the questions that all answered")
    if conversion.n_left_out:
        print_note(f"{conversion.n_left_out} questions left out that some model did not answer")
    for problem in conversion.problems[:_SHOWN_PROBLEMS]:
        print_note(f"left out: {problem}")
    if len(conversion.problems) > _SHOWN_PROBLEMS:
        print_note(f"and {len(conversion.problems) - _SHOWN_PROBLEMS} more; dataset.json lists all of them")
