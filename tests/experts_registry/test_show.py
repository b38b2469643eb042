"""What `enlist pool check|show` prints."""

from __future__ import annotations

from pathlib import Path

from experts_registry.pool import parse_pool
from experts_registry.show import PoolProblem, check_pool, pool_table
from router_service.errors import ConfigError

POOL = parse_pool(
    {
        "experts": [
            {
                "id": "a",
                "model": "m",
                "backend": "echo",
                "api_key": "sk-secret",
                "address": "https://bob:s3cret@host:8000/v1",
                "prices": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0.25},
                "modalities": ["image", "text"],
            },
            {"id": "b", "model": "m", "backend": "echo", "persona": "You are a judge.", "enabled": False},
            {"id": "c", "model": "m", "backend": "echo", "context_window": 4096},
        ]
    },
    "p",
    Path("/"),
)


def test_the_table_says_what_is_known_and_hides_keys():
    a, b, c = pool_table(POOL)
    assert (a["in USD/Mtok"], a["out USD/Mtok"], a["reads"], a["key"]) == ("0", "0.25", "text, image", "set")
    assert (b["persona"], b["enabled"], b["in USD/Mtok"]) == ("You are a judge.", "no", "?")
    assert a["address"] == "https://***@host:8000/v1" and "s3cret" not in repr(a)
    assert c["context"] == "4096" and "sk-secret" not in repr([a, b, c])


def test_checking_asks_about_every_enabled_expert():
    asked = []

    def check(expert):
        asked.append(expert.id)
        if expert.id == "c":
            raise ConfigError("no weights")

    assert check_pool(POOL, check) == [PoolProblem(expert_id="c", message="no weights")]
    assert asked == ["a", "c"]
