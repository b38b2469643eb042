"""The REST door: OpenAI-compatible endpoints over the engine."""
