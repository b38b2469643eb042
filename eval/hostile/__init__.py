"""Programs that attack the sandbox, as data (`eval.sandbox_attacks` runs them)."""
