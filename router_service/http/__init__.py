"""The REST door: OpenAI-compatible endpoints over the engine; `router_service.http.app.create_app` makes the app."""
