"""Experts behind Ray Serve: one OpenAI-compatible address, replicas on the nodes of a cluster.

Run it on the cluster's head with `python examples/ray_serve_expert.py`. Then any number of gateways may ask it:
`enlist serve --pool examples/ray_serve_pool.yaml --recruiter all --aggregator majority --port 8080`.

Environment: SERVE_POOL (pool whose experts are served, `local`), SERVE_REPLICAS (2), SERVE_CPUS (per replica, 1),
SERVE_GPUS (per replica, 0), SERVE_PORT (8000).
"""

from __future__ import annotations

import os
import time

from ray import serve

POOL = os.environ.get("SERVE_POOL", "local")


def build_app() -> object:
    """What each replica answers with: the service itself, as a plain server of one pool's experts, `model` being an
    expert's id. Calls that wait for the same model are answered together."""
    from router_service.assembly import asking_only, build_engine
    from router_service.config import EngineConfig
    from router_service.http.app import create_app

    return create_app(build_engine(asking_only(EngineConfig(pool=POOL))))


replicas = serve.deployment(
    name="experts",
    num_replicas=int(os.environ.get("SERVE_REPLICAS", "2")),
    max_ongoing_requests=64,
    ray_actor_options={
        "num_cpus": float(os.environ.get("SERVE_CPUS", "1")),
        "num_gpus": float(os.environ.get("SERVE_GPUS", "0")),
        "runtime_env": {"env_vars": {"SERVE_POOL": POOL}},
    },
)
app = replicas(serve.ingress(build_app)()).bind()


def main() -> None:
    """Deploy to the cluster of RAY_ADDRESS, or the one that runs here, and stay until told to stop."""
    import ray

    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
    port = int(os.environ.get("SERVE_PORT", "8000"))
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    serve.run(app, name="experts", route_prefix="/")
    print(f"experts at http://127.0.0.1:{port}/v1", flush=True)
    try:
        while True:
            time.sleep(60)
    except KeyboardInterrupt:
        serve.shutdown()


if __name__ == "__main__":
    main()
