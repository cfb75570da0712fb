"""The main job, submitted to a cluster: with the working directory shipped, and without."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SWEEP = "sweeps/recam_threshold.py"
SMALL = (
    "--data=scenes:images=32",
    "--trials=1",
    "--seeds=1",
    "--cam-steps=1",
    "--recam-steps=1",
    "--probe=0",
    "--tracking=none",
)

pytestmark = pytest.mark.slow


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A head started in a copy of the checkout, with its own home: address and environment."""
    folder = tmp_path_factory.mktemp("cluster")
    checkout = folder / "checkout"
    for part in ("platform", "wsss", "sweeps"):
        shutil.copytree(ROOT / part, checkout / part)
    environment = os.environ | {
        "HOME": str(folder),
        "STAGEFLOW_HOME": str(folder / "stageflow"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "COLUMNS": "200",
        "RAY_ADDRESS": "",
    }
    port, dashboard, agent = free_ports(3)
    started = subprocess.Popen(
        [
            *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
            *(f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2"),
            f"--dashboard-agent-listen-port={agent}",  # another head may have the usual one
            *("--node-ip-address=127.0.0.1", f"--temp-dir=/tmp/ray-{os.getpid()}"),
        ],
        cwd=checkout,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        _wait_for(f"{address}/api/version", started)
        yield address, environment
    finally:
        for process in [*psutil.Process(started.pid).children(recursive=True), started]:
            process.kill()
        started.wait()
        shutil.rmtree(f"/tmp/ray-{os.getpid()}", ignore_errors=True)


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(120):
        assert process.poll() is None, "ray start ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"nothing answers at {url}")


def submit(cluster: tuple[str, dict[str, str]], *arguments: str) -> str:
    """Submit a job and wait for its end; its output. A head that just started has no agent yet."""
    address, environment = cluster
    for _ in range(30):
        done = subprocess.run(
            [str(BIN / "ray"), "job", "submit", f"--address={address}", *arguments],
            capture_output=True,
            text=True,
            timeout=400,
            env=environment,
            cwd=environment["HOME"],
        )
        if "No available agent" not in done.stderr:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_a_shipped_folder_runs_its_own_code(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """One line changed on each side of the fence: in the driver's code, and in what workers run."""
    mine = tmp_path / "mine"
    for part in ("platform", "wsss", "sweeps"):
        shutil.copytree(ROOT / part, mine / part)
    _edit(mine / "platform/stageflow/report.py", 'title=f"best of', 'title=f"mine, best of')
    _edit(mine / "wsss/cam/seeds.py", "found = {", 'found = {"marked": torch.ones(()), ')
    output = submit(cluster, f"--working-dir={mine}", "--", SWEEP, *SMALL)
    assert "mine, best of 1 trial" in output
    assert "marked 1" in output
    assert "ReCAM (" in output


@pytest.mark.timeout(900)
def test_without_a_folder_the_head_s_checkout_runs(cluster: tuple[str, dict[str, str]]) -> None:
    """The short form; the marked artifacts of the other test are stale for this code."""
    output = submit(cluster, "--", SWEEP, *SMALL, "--on-stale=rerun")
    assert "best of 1 trial" in output
    assert "mine" not in output
    assert "marked" not in output


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has changed: this test edits {old!r} in it"
    path.write_text(text.replace(old, new))
