"""What every test may use: the reference data beside the checkout, a private home, and MLflow."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Many small networks run here: on shared cores, threads only get into each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REFERENCE = Path(os.environ.get("WSSS_REFERENCE", Path(__file__).resolve().parents[2] / "shared"))


TOGETHER = {  # what several files have in common that is slow to start
    "tests/integration/stack/": "stack",
    "tests/integration/test_tracking_mlflow.py": "MLflow",
    "tests/faults/test_mlflow_outage.py": "MLflow",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes test, one takes all of a file, or of the files that belong together.

    The marks that pytest-xdist has for this are without effect in its version 3.8 on pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((what for path, what in TOGETHER.items() if file.startswith(path)), file)

    return Together(config, log)


def reference(relative: str) -> Path:
    """A path inside the reference data; skips the test, with the reason, where it is absent."""
    path = REFERENCE / relative
    if not path.exists():
        pytest.skip(f"no reference data at {path} (set WSSS_REFERENCE)")
    return path


@pytest.fixture(scope="session")
def voc_mini() -> Path:
    """Root of 608 real VOC 2012 images with masks, in the official layout."""
    return reference("data/voc_mini")


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Root of 100 real COCO images with their annotations, in the official layout of 2017."""
    return reference("data/coco_mini")


@pytest.fixture(scope="session")
def voc_lists() -> Path:
    """The official lists of VOC's images in full, and their image-level labels."""
    return reference("data/lists")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], "np.lib.npyio.NpzFile"]:
    """Loader of recorded arrays: `golden("unit03_recam_sce")["logits"]`."""
    here = Path(__file__).parent / "parity" / "golden"

    def load(unit: str) -> "np.lib.npyio.NpzFile":
        kept = here / f"{unit}.npz"
        found = kept if kept.exists() else reference(f"golden/{unit}.npz")
        return np.load(found, allow_pickle=False)

    return load


@pytest.fixture(autouse=True)
def private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point HOME and STAGEFLOW_HOME into the test's own folder, so that nothing leaks out or in."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("STAGEFLOW_HOME", str(home / ".stageflow"))
    return home


@dataclass(slots=True)
class MLflowServer:
    """An MLflow server that can be killed and started again with the same address and files."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", "--workers=1"]
        command += [f"--port={self.port}", f"--backend-store-uri=sqlite:///{self.folder}/mlflow.db"]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, f"--artifacts-destination={self.folder}/artifacts"],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **quiet},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                opener.open(f"{self.address}/health", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        pytest.fail(f"no MLflow server: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """One for the whole session, which dies at its end; whoever kills it starts it again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = MLflowServer(tmp_path_factory.mktemp("mlflow-server"), port)
    try:
        server.start()
        yield server
    finally:
        server.kill()
