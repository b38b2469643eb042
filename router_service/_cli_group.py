"""A group of commands that is a command itself: `enlist route "a question"` beside `enlist route replay LOG`."""

from __future__ import annotations

import typer
from typer.core import TyperGroup

__all__ = ["DEFAULT_COMMAND", "CommandGroup"]

DEFAULT_COMMAND = "question"


class CommandGroup(TyperGroup):
    """Runs its command `question` unless the first word names another; after `--` no word is a command."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # a subclass
        """The arguments, led by the command that is meant."""
        is_named = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args if is_named else [DEFAULT_COMMAND, *args])
