"""infra/container: the image's file, and the compose file with what it refers to."""

import copy
import os
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
Compose = dict[str, Any]


@pytest.fixture(scope="module")
def folder(infra: Path) -> Path:
    return infra / "container"


@pytest.fixture(scope="module")
def compose(folder: Path) -> Compose:
    loaded = yaml.safe_load((folder / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def example(folder: Path) -> str:
    return (folder / ".env.example").read_text()


def services(compose: Compose) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def faults(compose: Compose, example: str) -> list[str]:
    """What the schema of compose cannot see: references, variables, ports and images."""
    found = []
    for name, service in services(compose).items():
        for other in service.get("depends_on", ()):
            if other not in compose["services"]:
                found.append(f"{name} depends on {other}, which is no service")
            elif "healthy" in str(service["depends_on"][other]) and not _has_health(
                services(compose)[other]
            ):
                found.append(f"{name} waits for the health of {other}, which is not asked")
        for volume in service.get("volumes", ()):
            source = volume["source"] if isinstance(volume, dict) else volume.partition(":")[0]
            if not re.match(r"[./~$]", source) and source not in compose.get("volumes", {}):
                found.append(f"{name} mounts {source}, which is no volume")
        for kind in ("networks", "secrets", "configs"):
            for used in service.get(kind, ()):
                if used not in compose.get(kind, {}):
                    found.append(f"{name} uses {used}, which is not among {kind}")
        for port in service.get("ports", ()):
            if not str(port).startswith("127.0.0.1:"):
                found.append(f"{name} publishes {port} beyond this machine")
        if not re.search(r":v?\d+[\w.-]*$", service.get("image", "")):
            found.append(f"{name} has no image with a version")
    found += _image_faults(services(compose))
    used = {name for text in _strings(compose) for name in re.findall(r"\$\{?([A-Z_]+)", text)}
    given = set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE))
    found += [f"${name} is not in .env.example" for name in sorted(used - given)]
    found += [f"{name} of .env.example is not used" for name in sorted(given - used)]
    return found


def _image_faults(given: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Two builds of one tag run at a time and collide; a tag of ours is in no registry."""
    built: dict[str, str] = {}
    for name, service in given.items():
        if "build" in service:
            other = built.setdefault(service.get("image", name), name)
            if other != name:
                yield f"{name} builds the image of {other}"
    for name, service in given.items():
        if service.get("image") in built and "build" not in service:
            if service.get("pull_policy") != "never":
                yield f"{name} would pull what {built[service['image']]} builds"


def _has_health(service: dict[str, Any]) -> bool:
    return "healthcheck" in service and not service["healthcheck"].get("disable")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value.replace("$$", "")
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def hadolint(tool: Callable[[str], str], path: Path) -> str:
    done = subprocess.run([tool("hadolint"), str(path)], capture_output=True, text=True)
    assert bool(done.returncode) == bool(done.stdout + done.stderr)
    return done.stdout + done.stderr


def schema_errors(tool: Callable[[str], str], path: Path) -> str:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_image(tool: Callable[[str], str], folder: Path) -> None:
    assert hadolint(tool, folder / "Dockerfile") == ""


def test_image_finds_faults(tool: Callable[[str], str], tmp_path: Path) -> None:
    broken = tmp_path / "Dockerfile"
    broken.write_text("FROM python\nRUN cd /tmp\n")
    assert "DL3006" in hadolint(tool, broken)


def test_image_has_no_compiler_no_secret_and_its_own_user(folder: Path) -> None:
    first, last = re.split(r"(?m)^FROM ", (folder / "Dockerfile").read_text())[1:]
    assert "g++" in first
    assert "g++" not in last
    assert "\nUSER 1000:1000\n" in last
    assert not re.search(r"(?i)password|secret|token=", first + last.replace("no token", ""))


def test_image_has_all_that_is_copied(folder: Path) -> None:
    ignored = (folder / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = set()
    for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", (folder / "Dockerfile").read_text()):
        copied |= {part for part in line.split()[:-1] if not part.startswith("--")}
    assert copied == let_in
    assert all((ROOT / path).exists() for path in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel = packages["targets"]["wheel"]["packages"]
    assert {path.partition("/")[0] for path in wheel} <= copied


def test_compose_follows_the_schema(tool: Callable[[str], str], folder: Path) -> None:
    assert schema_errors(tool, folder / "compose.yaml") == ""


def test_the_schema_finds_faults(tool: Callable[[str], str], tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text("services: {a: {image: a:1, healthcheck: {interal: 3s}}}\n")
    assert "interal" in schema_errors(tool, broken)


def test_compose_refers_to_what_is_there(compose: Compose, example: str, folder: Path) -> None:
    assert faults(compose, example) == []
    for text in _strings(compose["services"]):
        if text.startswith("./"):
            assert (folder / text.partition(":")[0]).is_file()


@pytest.mark.parametrize(
    ("service", "part", "value", "told"),
    [
        ("head", "depends_on", {"nobody": {}}, "nobody, which is no service"),
        ("head", "depends_on", {"prepare": {"condition": "service_healthy"}}, "is not asked"),
        ("postgres", "volumes", ["data:/data"], "data, which is no volume"),
        ("postgres", "networks", ["inner"], "inner, which is not among networks"),
        ("postgres", "secrets", ["key"], "key, which is not among secrets"),
        ("mlflow", "ports", ["5000:5000"], "beyond this machine"),
        ("mlflow", "image", "mlflow:latest", "no image with a version"),
        ("mlflow", "build", {"context": "."}, "mlflow builds the image of prepare"),
        ("mlflow", "pull_policy", "missing", "would pull what prepare builds"),
        ("mlflow", "command", "server ${NOT_GIVEN}", "$NOT_GIVEN is not in .env.example"),
    ],
)
def test_faults_are_found(
    compose: Compose, example: str, service: str, part: str, value: object, told: str
) -> None:
    broken = copy.deepcopy(compose)
    broken["services"][service][part] = value
    assert [fault for fault in faults(broken, example) if told in fault]


def test_a_variable_that_nobody_uses_is_found(compose: Compose, example: str) -> None:
    assert faults(compose, example + "FORGOTTEN=1\n") == ["FORGOTTEN of .env.example is not used"]


def test_the_example_holds_no_secrets(example: str, folder: Path) -> None:
    lines = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE))
    secret = {name for name in lines if re.search("PASSWORD|SECRET|TOKEN", name)}
    assert len(secret) >= 6
    assert {name for name, value in lines.items() if not value} == secret
    assert ".env" in (folder / ".gitignore").read_text().split()


def test_services_wait_on_health_and_drop_rights(compose: Compose) -> None:
    for name, service in services(compose).items():
        if name == "prepare":  # ends by itself
            continue
        assert _has_health(service), name
        if service["image"].startswith("stageflow-wsss:"):
            assert service["cap_drop"] == ["ALL"], name


def test_only_the_s3_of_seaweedfs_comes_out(compose: Compose) -> None:
    """Its gRPC and the rest ask for no account, and job containers share the network of all."""
    given = services(compose)
    weed = given["seaweedfs"]
    assert weed["network_mode"] == "none"
    [socket] = re.findall(r"-s3\.localSocket=(\S+)", weed["command"])
    assert given["s3"]["command"][-1] == f"UNIX-CONNECT:{socket}"
    [shared] = [v for v in weed["volumes"] if v.endswith(f":{Path(socket).parent}")]
    assert {name for name in given if shared in given[name].get("volumes", ())} == {
        "seaweedfs",
        "s3",
    }
    assert "socat" in (ROOT / "infra" / "container" / "Dockerfile").read_text().split()


def test_nodes_carry_what_jobs_need(compose: Compose) -> None:
    for name in ("head", "worker"):
        environment = services(compose)[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["STAGEFLOW_STORE"].startswith("s3://")
        # No address holds a password: libpq, boto3 and MLflow take theirs from the environment.
        assert not [v for v in environment.values() if re.search(r"//[^/@:]+:[^/@]+@", v)]
        assert {"AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "RAY_AUTH_TOKEN"} <= environment.keys()
    gpu = services(compose)["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert [device["capabilities"] for device in gpu] == [["gpu"]]


def test_flags_exist(compose: Compose, unknown_flags: Callable[[str], list[str]]) -> None:
    for name in ("head", "worker"):
        assert "ray start" in services(compose)[name]["command"]
        assert unknown_flags(services(compose)[name]["command"]) == []


def test_the_databases_are_those_of_the_addresses(compose: Compose, folder: Path) -> None:
    made = re.findall(r"CREATE DATABASE (\w+)", (folder / "databases.sql").read_text())
    made.append(services(compose)["postgres"]["environment"]["POSTGRES_DB"])
    texts = [*_strings(compose), (folder / "mlflow_auth.ini").read_text()]
    named = {db for text in texts for db in re.findall(r"@postgres:5432/(\w+)", text)}
    assert named == set(made)


def test_overrides_of_a_job_are_what_nodes_carry(compose: Compose, infra: Path) -> None:
    job = yaml.safe_load((infra / "runtime_env.yaml").read_text())
    node = services(compose)["head"]["environment"]
    assert set(job) == {"env_vars"}
    assert set(job["env_vars"]) <= node.keys()
    assert not [name for name in job["env_vars"] if re.search("PASSWORD|SECRET|TOKEN|KEY", name)]


def take_gpu(folder: Path, locks: Path, binaries: Path, command: str) -> "subprocess.Popen[str]":
    """Start the worker's entry with locks in another folder."""
    script = (folder / "take-gpu").read_text().replace("/run/gpus", str(locks))
    return subprocess.Popen(
        ["sh", "-c", script, "take-gpu", "sh", "-c", command],
        env={"PATH": f"{binaries}:{os.environ['PATH']}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_workers_of_one_machine_take_a_gpu_each(folder: Path, tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    smi.chmod(0o755)
    locks = tmp_path / "gpus"
    locks.mkdir()
    held = "echo $CUDA_VISIBLE_DEVICES; read wait"
    workers = []
    taken = []
    for _ in range(2):
        workers.append(take_gpu(folder, locks, tmp_path, held))
        assert workers[-1].stdout is not None
        taken.append(workers[-1].stdout.readline().strip())
    assert taken == ["0", "1"]
    _, told = take_gpu(folder, locks, tmp_path, held).communicate(timeout=20)
    assert "scale down" in told
    workers[0].communicate("\n", timeout=20)
    out, _ = take_gpu(folder, locks, tmp_path, held).communicate("\n", timeout=20)
    assert out == "0\n"
    workers[1].communicate("\n", timeout=20)


def test_the_lock_has_what_the_image_installs() -> None:
    """Whatever the image's build chooses, its version is pinned."""
    pinned = set(re.findall(r"(?m)^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[\[<>=; ]", text)[0] for text in project["dependencies"]}
    assert wanted | {"mlflow", "optuna-dashboard", "hatchling", "editables"} <= pinned
