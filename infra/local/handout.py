"""What the stack gives to shells, to machines that join, and to jobs: files in its home."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping

import yaml

from infra.local import ray_cluster
from infra.local.environment import no_proxy
from infra.local.layout import USER, Layout, Passwords, private


def write(
    layout: Layout, keys: Passwords, secrets: Mapping[str, str], addresses: Mapping[str, str]
) -> None:
    """Write all of them; only the jobs' holds no secret, and may be read by everybody."""
    direct = no_proxy(layout.host)
    user = {**direct, **ray_cluster.environment(layout), **secrets, **addresses}
    node = {**direct, **ray_cluster.node_environment(keys), **secrets, **_joining(layout)}
    for name, variables in (("environment.sh", user), ("node.sh", node)):
        lines = [f"export {key}={shlex.quote(value)}\n" for key, value in variables.items()]
        private(layout.home / name, "".join(lines))
    (layout.home / "runtime_env.yaml").write_text(yaml.safe_dump({"env_vars": dict(addresses)}))


def advice(layout: Layout, keys: Passwords) -> str:
    """What to do with it."""
    home = layout.home
    return (
        f"\nMLflow         {layout.mlflow_url}  (user {USER}, password {keys.mlflow})\n"
        f"Ray dashboard  {layout.dashboard_url}  (token in {home}/ray-token)\n"
        f"logs           {home}/logs\n\n"
        f"  . {home}/environment.sh\n"
        f"  ray job submit --runtime-env {home}/runtime_env.yaml --working-dir . -- "
        "sweeps/recam_threshold.py\n"
    )


def minor_version() -> str:
    """Python's, which is the same on all nodes of a cluster."""
    return ".".join(platform.python_version_tuple()[:2])


def _joining(layout: Layout) -> dict[str, str]:
    """What infra/local/join.py asks for."""
    ports = (layout.postgres_port, layout.s3_port, layout.mlflow_port)
    return {
        "STACK_HEAD": ray_cluster.address(layout),
        "STACK_PORTS": " ".join(map(str, ports)),
        "STACK_PYTHON": minor_version(),
    }
