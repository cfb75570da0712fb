"""infra/kubernetes: what the chart renders, under several values, is valid and closed."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from stageflow.machines_ray import startable
from stageflow.stage import Needs

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "infra" / "README.md").read_text()
[MINE] = re.findall(r"```yaml\n([\s\S]+?)```", README)
KUBERNETES = "1.37.0"
Manifest = dict[str, Any]

VALUES = {
    "defaults": {},
    "of the README": yaml.safe_load(MINE),
    "without GPUs": {"workers": {"gpu": None}},
    "a job": {"job": {"enabled": True}},
    "a job of its own": {
        "job": {
            "enabled": True,
            "entrypoint": "sweeps/methods.py --data 'voc2012:s3://stageflow/voc2012'",
            "workingDir": "s3://stageflow/code.zip",
            "environment": {"STAGEFLOW_STORE": "s3://stageflow/other"},
        }
    },
    "MLflow, keys, spot machines": {
        "image": {"repository": "registry.example/stageflow", "tag": "1", "pullSecrets": ["pull"]},
        "ray": {"tokenSecret": "token"},
        "store": {"endpoint": "http://objects:8333", "secret": "keys"},
        "mlflow": {"server": {"enabled": True}},
        "environment": {"OMP_NUM_THREADS": "1"},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/a"}},
        "cache": {"hostPath": {"path": "/mnt/disk", "type": "Directory"}},
        "head": {
            "nodeSelector": {"capacity": "on-demand"},
            "tolerations": [{"operator": "Exists"}],
        },
        "workers": {"gpu": {"nodeSelector": {"capacity": "spot"}, "gpus": 4}},
    },
    "roles instead of Secrets": {
        "studies": {"secret": ""},
        "mlflow": {"secret": ""},
        "networkPolicy": {"enabled": False},
    },
}


@pytest.fixture(scope="session")
def run(helm: Path, infra: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Helm on the chart: run("lint", "--strict", values={...})."""

    def command(verb: str, *more: str, values: object) -> "subprocess.CompletedProcess[str]":
        name = [] if verb == "lint" else ["sweeps"]
        line = [str(helm), verb, *name, str(infra / "kubernetes" / "stageflow"), "--values=-"]
        given = json.dumps(values)
        return subprocess.run([*line, *more], input=given, capture_output=True, text=True)

    return command


@pytest.fixture(scope="session")
def rendered(
    run: Callable[..., "subprocess.CompletedProcess[str]"],
) -> dict[str, list[Manifest]]:
    found = {}
    for name, values in VALUES.items():
        done = run("template", values=values)
        assert done.returncode == 0, done.stderr
        found[name] = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    return found


def kinds(manifests: list[Manifest]) -> list[str]:
    return sorted(manifest["kind"] for manifest in manifests)


def of(manifests: list[Manifest], kind: str) -> Manifest:
    [found] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def with_defaults(schema: Manifest, value: Any) -> Any:
    """The value as the API server completes it: it fills in defaults, then asks for fields."""
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        missing = {
            name: inner["default"]
            for name, inner in fields.items()
            if "default" in inner and name not in value
        }
        rest = schema.get("additionalProperties")
        other = rest if isinstance(rest, dict) else {}
        return {
            name: with_defaults(fields.get(name, other), inner)
            for name, inner in (missing | value).items()
        }
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), inner) for inner in value]
    return value


def is_ray(manifest: Manifest) -> bool:
    return str(manifest["apiVersion"]).startswith("ray.io/")


def ray_errors(manifest: Manifest, kuberay: Callable[[str], Path]) -> list[str]:
    """What KubeRay's schema says against a manifest; skips where there is none."""
    schema = json.loads(kuberay(manifest["kind"]).read_text())
    validator = jsonschema.Draft202012Validator(schema)
    return [e.message for e in validator.iter_errors(with_defaults(schema, manifest))]


def core_errors(manifest: Manifest) -> list[str]:
    """What Kubernetes' schema says against a manifest. Raises for a kind that it does not know."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod that a manifest makes, with a name for it."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "RayCluster":
            yield "head", spec["headGroupSpec"]["template"]["spec"]
            for group in spec["workerGroupSpecs"]:
                yield group["groupName"], group["template"]["spec"]
        elif manifest["kind"] == "RayJob":
            yield "submitter", spec["submitterPodTemplate"]["spec"]
        elif manifest["kind"] == "Deployment":
            yield manifest["metadata"]["name"], spec["template"]["spec"]


def environment(pod: Manifest) -> dict[str, Any]:
    [container] = pod["containers"]
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names))
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in container["env"]}


@pytest.mark.parametrize("name", VALUES)
def test_lint(run: Callable[..., "subprocess.CompletedProcess[str]"], name: str) -> None:
    done = run("lint", "--strict", values=VALUES[name])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", VALUES)
def test_core_kinds_are_valid(rendered: dict[str, list[Manifest]], name: str) -> None:
    core = [manifest for manifest in rendered[name] if not is_ray(manifest)]
    assert {"PodDisruptionBudget", "ServiceAccount"} <= set(kinds(core))
    found = {manifest["kind"]: core_errors(manifest) for manifest in core}
    assert {kind: told for kind, told in found.items() if told} == {}


@pytest.mark.parametrize("name", VALUES)
def test_kinds_of_ray_are_valid(
    rendered: dict[str, list[Manifest]], kuberay: Callable[[str], Path], name: str
) -> None:
    rays = [manifest for manifest in rendered[name] if is_ray(manifest)]
    assert "RayCluster" in kinds(rays)
    found = {manifest["kind"]: ray_errors(manifest, kuberay) for manifest in rays}
    assert {kind: told for kind, told in found.items() if told} == {}


@pytest.mark.parametrize("name", VALUES)
def test_a_volume_has_one_source(rendered: dict[str, list[Manifest]], name: str) -> None:
    """Which schemas do not say, and the API server does."""
    for pod_name, pod in pods(rendered[name]):
        for volume in pod.get("volumes", ()):
            assert len(volume) == 2, (pod_name, volume)


def test_kinds_by_values(rendered: dict[str, list[Manifest]]) -> None:
    always = ["NetworkPolicy", "PodDisruptionBudget", "RayCluster", "ServiceAccount"]
    assert kinds(rendered["defaults"]) == always
    assert kinds(rendered["a job"]) == sorted([*always, "RayJob"])
    assert "NetworkPolicy" not in kinds(rendered["roles instead of Secrets"])
    assert {"Deployment", "Service", "ConfigMap"} < set(
        kinds(rendered["MLflow, keys, spot machines"])
    )
    groups = of(rendered["without GPUs"], "RayCluster")["spec"]["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["cpu"]


def broken(manifest: Manifest, path: tuple[str, ...], value: object) -> Manifest:
    """A copy of the manifest with another value at a place."""
    copied: Manifest = json.loads(json.dumps(manifest))
    place = copied
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copied


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("NetworkPolicy", ("spec", "ingres"), []),
        ("PodDisruptionBudget", ("spec", "minAvailable"), []),
    ],
)
def test_faults_of_core_kinds_are_found(
    rendered: dict[str, list[Manifest]], kind: str, path: tuple[str, ...], value: object
) -> None:
    assert core_errors(broken(of(rendered["a job"], kind), path, value))


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("RayCluster", ("spec", "headGroupSpec", "templat"), {}),
        ("RayCluster", ("spec", "authOptions", "mode"), "tokens"),
        ("RayJob", ("spec", "entrypoint"), 3),
    ],
)
def test_faults_of_kinds_of_ray_are_found(
    rendered: dict[str, list[Manifest]],
    kuberay: Callable[[str], Path],
    kind: str,
    path: tuple[str, ...],
    value: object,
) -> None:
    assert ray_errors(broken(of(rendered["a job"], kind), path, value), kuberay)


def test_a_kind_that_nobody_checks_is_no_success() -> None:
    import kubernetes_validate

    unknown = {"apiVersion": "example.org/v1", "kind": "Unknown", "metadata": {"name": "a"}}
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        core_errors(unknown)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"jobs": {}}, "jobs"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"workers": {"gpu": {"maxReplicas": 0}}}, "/workers/gpu"),
        ({"studies": {"uri": "postgresql://me:password@host/optuna"}}, "/studies/uri"),
        ({"mlflow": {"uri": "http://me:password@host"}}, "/mlflow/uri"),
        ({"cache": {"emptyDir": {}, "hostPath": {"path": "/mnt/disk"}}}, "/cache"),
    ],
)
def test_wrong_values_are_refused(
    run: Callable[..., "subprocess.CompletedProcess[str]"], values: object, told: str
) -> None:
    done = run("template", values=values)
    assert done.returncode != 0
    assert told in done.stderr


def test_ray_is_the_locked_one(rendered: dict[str, list[Manifest]]) -> None:
    [version] = re.findall(r"(?m)^ray==(.+)$", (ROOT / "requirements.lock").read_text())
    assert of(rendered["defaults"], "RayCluster")["spec"]["rayVersion"] == version


@pytest.mark.parametrize("name", VALUES)
def test_pods_have_no_more_rights_than_they_need(
    rendered: dict[str, list[Manifest]], name: str
) -> None:
    for pod_name, pod in pods(rendered[name]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        # The autoscaler beside the head is the only one who talks to the API server.
        assert pod["automountServiceAccountToken"] is (pod_name == "head")
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert re.search(r":[\w.]+$", container["image"])


def test_the_readme_makes_its_secrets(rendered: dict[str, list[Manifest]]) -> None:
    lines = README.replace("\\\n", " ").splitlines()
    made = {
        (words[words.index("generic") + 1], key)
        for words in (line.split() for line in lines if "kubectl create secret" in line)
        for key in re.findall(r"--from-literal=([\w-]+)=", " ".join(words))
    }
    asked = {
        (value["secretKeyRef"]["name"], value["secretKeyRef"]["key"])
        for _, pod in pods(rendered["of the README"])
        for value in environment(pod).values()
        if isinstance(value, dict)
    }
    assert asked == made


@pytest.mark.parametrize("name", VALUES)
def test_secrets_come_by_reference(rendered: dict[str, list[Manifest]], name: str) -> None:
    assert "Secret" not in kinds(rendered[name])
    for _, pod in pods(rendered[name]):
        for variable, value in environment(pod).items():
            if re.search("PASSWORD|SECRET|TOKEN$|ACCESS_KEY", variable):
                assert set(value) == {"secretKeyRef"}, variable
    text = json.dumps(rendered[name])
    assert not re.search(r"//[^/\s@:\"]+:[^/\s@\"]+@", text)


def test_the_cluster_is_closed(rendered: dict[str, list[Manifest]]) -> None:
    cluster = of(rendered["a job"], "RayCluster")
    assert cluster["spec"]["authOptions"]["mode"] == "token"
    assert cluster["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    own = {"ray.io/cluster": cluster["metadata"]["name"]}
    policy = of(rendered["a job"], "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["podSelector"]["matchLabels"] == own
    inner, client, operator = policy["ingress"]
    assert inner == {"from": [{"podSelector": {"matchLabels": own}}]}
    [peer] = client["from"]
    submitter = of(rendered["a job"], "RayJob")["spec"]["submitterPodTemplate"]
    assert peer["podSelector"]["matchLabels"].items() <= submitter["metadata"]["labels"].items()
    assert {port["port"] for port in operator["ports"]} == {8265}
    assert all(rule["from"] for rule in policy["ingress"])


def test_workers_may_be_taken_away(
    rendered: dict[str, list[Manifest]], unknown_flags: Callable[[str], list[str]]
) -> None:
    spec = of(rendered["MLflow, keys, spot machines"], "RayCluster")["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["template"]["spec"]["nodeSelector"] == {"capacity": "on-demand"}
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    gpu = groups["gpu"]["template"]["spec"]
    assert gpu["nodeSelector"] == {"capacity": "spot"}
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert "nvidia.com/gpu" not in json.dumps(groups["cpu"]["template"]["spec"]["containers"])
    for group in groups.values():
        assert group["minReplicas"] == group["replicas"] == 0
        pod = group["template"]["spec"]
        hook = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert unknown_flags(" ".join(hook)) == []
        [left] = re.findall(r"--deadline-remaining-seconds=(\d+)", " ".join(hook))
        drain = int(environment(pod)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert int(left) == drain < pod["terminationGracePeriodSeconds"]
        assert pod["volumes"] == [
            {"name": "cache", "hostPath": {"path": "/mnt/disk", "type": "Directory"}}
        ]


def test_sweeps_know_what_may_be_started(rendered: dict[str, list[Manifest]]) -> None:
    """Of each group as many machines as it may have, with the cores and GPUs of its pods."""
    for name, manifests in rendered.items():
        groups = of(manifests, "RayCluster")["spec"]["workerGroupSpecs"]
        limits = [
            group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups
        ]
        may_be = [
            Needs(cpus=float(limit["cpu"]), gpus=limit.get("nvidia.com/gpu", 0))
            for group, limit in zip(groups, limits, strict=True)
            for _ in range(group["maxReplicas"])
        ]
        head = environment(dict(pods(manifests))["head"])
        assert startable(head["STAGEFLOW_MACHINES"]) == may_be, name


def test_jobs_have_what_they_need(rendered: dict[str, list[Manifest]]) -> None:
    for name in ("head", "gpu", "cpu"):
        given = environment(dict(pods(rendered["MLflow, keys, spot machines"]))[name])
        assert given["STAGEFLOW_STORE"] == "s3://stageflow/wsss"
        assert given["MLFLOW_TRACKING_URI"] == "http://sweeps-mlflow:5000"
        assert given["AWS_ENDPOINT_URL"] == "http://objects:8333"
        assert given["OMP_NUM_THREADS"] == "1"
        assert {"AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "MLFLOW_TRACKING_PASSWORD"} <= given.keys()


def test_the_cache_is_whatever_is_asked_for(rendered: dict[str, list[Manifest]]) -> None:
    for name, pod in pods(rendered["defaults"]):
        assert pod["volumes"] == [{"name": "cache", "emptyDir": {"sizeLimit": "100Gi"}}], name


def test_another_command_is_another_job(rendered: dict[str, list[Manifest]]) -> None:
    first, second = (of(rendered[name], "RayJob") for name in ("a job", "a job of its own"))
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert "runtimeEnvYAML" not in first["spec"]
    assert yaml.safe_load(second["spec"]["runtimeEnvYAML"]) == {
        "working_dir": "s3://stageflow/code.zip",
        "env_vars": {"STAGEFLOW_STORE": "s3://stageflow/other"},
    }
    script = first["spec"]["entrypoint"].split()[0]
    assert (ROOT / script).is_file()


def test_the_notes_tell_how_to_run_a_job_again(
    run: Callable[..., "subprocess.CompletedProcess[str]"], rendered: dict[str, list[Manifest]]
) -> None:
    """A RayJob that ended stays as it is under `helm upgrade`, which finds its name there."""
    name = of(rendered["a job"], "RayJob")["metadata"]["name"]
    done = run("install", "--dry-run=client", values=VALUES["a job"])
    assert f"delete rayjob {name}" in done.stdout
    assert "delete rayjob" not in run("install", "--dry-run=client", values={}).stdout
