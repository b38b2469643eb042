"""The command `serve`: the engine behind the REST door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from router_service._cli_options import EngineOptions

__all__ = ["ServeOptions", "serve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions(EngineOptions):
    """Where to listen; everything else of the door is read from ENLIST_... variables."""

    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 where nothing says.")] = None
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 8000 where nothing says.")] = None


def serve(options: ServeOptions) -> None:
    """Serve the OpenAI-compatible REST API until told to stop."""
    from router_service.assembly import build_engine
    from router_service.http.server import serve as serve_engine
    from router_service.http.settings import ServerSettings

    given = {name: getattr(options, name) for name in ("host", "port") if getattr(options, name) is not None}
    settings = ServerSettings.from_env(**given)
    settings.require_safe()
    serve_engine(build_engine(options.engine_config()), settings)
