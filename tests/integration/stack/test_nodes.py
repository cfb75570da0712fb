"""Several nodes: each fetches data once, a group of ranks spans two, and they come and die."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psutil
import pytest
from PIL import Image

from stageflow.artifact import Artifacts, Manifest
from tests.integration.stack.conftest import Cluster, Job, wait_until
from wsss.data import open_samples

pytestmark = pytest.mark.slow

SCRIPT = '''
import json, os, sys
from dataclasses import dataclass
from pathlib import Path

import ray

from stageflow.artifact import Artifacts
from stageflow.context import Context
from stageflow.executor import run
from stageflow.executor_ray import RayExecutor
from stageflow.settings import Settings
from stageflow.stage import Metrics, Needs, Source, stage
from wsss import stages
from wsss.stages.data import mine, opened


@dataclass(frozen=True)
class Nothing:
    pass


@stage(version="1", sharded=True)
def look(context: Context, images: Source, config: Nothing) -> None:
    """Each shard notes on which node it is, and how bright its images are."""
    samples = opened(images)
    node = ray.util.get_node_ip_address()
    for i in mine(context, len(samples)):
        (context.out / f"{i:03d}").write_text(f"{node} {samples.image(i).mean():.3f}")


@stage(version="1", needs=Needs(cpus=2, gpus=2))
def meet(context: Context, config: Nothing) -> Metrics:
    """Two ranks, and the nodes that they are on."""
    import torch.distributed as dist

    nodes = [None] * context.ranks
    dist.all_gather_object(nodes, ray.util.get_node_ip_address())
    (context.out / "nodes").write_text(json.dumps(nodes))
    return {"ranks": dist.get_world_size()}


if __name__ == "__main__":
    executor = RayExecutor(Settings(store="s3://stageflow/nodes-script").artifacts())
    seen, met = look(stages.images(sys.argv[1], "all"), Nothing()), meet(Nothing())
    folders = [executor.artifacts.fetch(made) for made in run(seen, met, executor=executor)]
    lines = [path.read_text().split() for path in sorted(folders[0].iterdir())]
    told = {
        "images": len(lines),
        "nodes": sorted({node for node, _ in lines}),
        "ranks": json.loads((folders[1] / "nodes").read_text()),
    }
    print("TOLD", json.dumps(told))
    executor.close()
'''


@pytest.fixture(scope="module")
def data(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images of one's own, pushed to S3 with the command that people use; their location."""
    folder, scenes = tmp_path_factory.mktemp("own"), open_samples("scenes:images=16", "train")
    (folder / "images").mkdir()
    rows = []
    for i, name in enumerate(scenes.ids):
        Image.fromarray(scenes.image(i)).save(folder / "images" / f"{name}.png")
        shown = [c for c, there in zip(scenes.classes, scenes.labels[i], strict=True) if there]
        rows.append(" ".join([name, *shown]))
    (folder / "image_labels.txt").write_text("\n".join(rows))
    cluster.run("stageflow", "push", str(folder), "s3://stageflow/data/own")
    return "images:s3://stageflow/data/own"


@pytest.fixture(scope="module")
def joined(cluster: Cluster) -> int:
    """A fourth worker with a pretended GPU; its number."""
    service = cluster.stack.worker(4, gpu=True)
    cluster.stack.processes.start(service)
    cluster.stack.processes.wait(service)
    return 4


@pytest.mark.timeout(600)
def test_work_is_spread(cluster: Cluster, data: str, joined: int, tmp_path: Path) -> None:
    """Over all nodes, of which each has the data once; two GPUs may be of two nodes."""
    (tmp_path / "look.py").write_text(SCRIPT)
    job = cluster.submit("python", "look.py", data, name="spread", folder=tmp_path)
    told = json.loads(job.output().split("TOLD ")[1].splitlines()[0])
    assert told["images"] == 16
    assert len(told["nodes"]) > 2
    assert len(set(told["ranks"])) == 2
    nodes = cluster.stack.layout.home / "nodes"
    copies = {
        node.name: [*node.glob("stageflow/data/*/*/image_labels.txt")] for node in nodes.iterdir()
    }
    assert {len(found) for found in copies.values()} <= {0, 1}
    assert sum(map(len, copies.values())) >= len(told["nodes"])


@pytest.mark.timeout(900)
def test_one_is_killed_in_mid_sweep(cluster: Cluster, sweep: tuple[Job, Job], joined: int) -> None:
    """`kill -9` of the raylet on which a training runs: another node goes on, with one answer."""
    uri = "s3://stageflow/killed"
    command = ("sweeps/recam_threshold.py", "--data=scenes:images=32", "--trials=1", "--seeds=1")
    command += ("--cam-steps=150", "--recam-steps=8", "--probe=8", "--study=killed")
    job = cluster.submit(*command, name="killed", store=uri)
    store = cluster.store(uri)
    wait_until(lambda: any("/checkpoints/" in name for name in store.list("train_cam/")))
    node_at_work(cluster).kill()
    output = job.output()
    made, undisturbed = manifests(cluster, uri), manifests(cluster, "")
    common = made.keys() & undisturbed.keys()
    assert {"train_cam", "cam_maps", "seed_score"} <= {made[key].stage for key in common}
    for key in common:
        assert made[key].metrics == pytest.approx(undisturbed[key].metrics), made[key].stage
    [trained] = [m for m in made.values() if m.stage == "train_cam"]
    assert trained.resumed_from
    [again] = re.findall(r"train_cam +\w{8} +1 +(\d+) of 150", output.split("worker deaths")[1])
    epoch = 150 // int(str(trained.config["epochs"]))
    assert int(again) <= epoch  # none, if it had saved just then
    assert "interrupted train_cam" in output


def node_at_work(cluster: Cluster) -> psutil.Process:
    """The raylet of the node whose worker executes a stage just now."""
    for number in range(1, 5):
        process = cluster.stack.processes.find(f"ray-worker-{number}")
        family = process.children(recursive=True) if process else []
        if any("Worker.execute" in " ".join(each.cmdline()) for each in family):
            return next(each for each in family if each.name() == "raylet")
    raise AssertionError("no node executes anything")


def manifests(cluster: Cluster, uri: str) -> dict[str, Manifest]:
    artifacts = Artifacts(cluster.store(uri), cluster.stack.layout.home / "cache")
    return {manifest.key: manifest for manifest in artifacts.all()}
