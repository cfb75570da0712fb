"""The stack of infra/local, as far as it needs no server."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import psycopg2
import pytest

from infra.local import certificate, join, postgres, ray_cluster, stack
from infra.local.environment import clean_environment, machine_environment, no_proxy
from infra.local.handout import minor_version
from infra.local.identity import Identity, in_sessions
from infra.local.layout import FREE, Layout, free_ports, gpus, remembered, with_inner_ports
from infra.local.lock import alone
from infra.local.service import Processes, Service, StackError

CHILD = "import subprocess, sys; subprocess.Popen(['sleep', '300']); print(flush=True); "


def serving(folder: Path, code: str = CHILD + "sys.stdin = open('/dev/zero'); input()") -> Service:
    """A server that starts another process, and never minds anything."""
    return Service(
        name="server",
        command=[sys.executable, "-c", code],
        environment=clean_environment(),
        healthy=lambda: True,
        folder=folder,
        patience=0.1,
    )


@pytest.fixture
def run(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def begun(run: Processes) -> psutil.Process:
    """The server, with a child."""
    service = serving(run.home)
    assert run.start(service)
    process = run.find(service.name)
    assert process is not None
    while not process.children():
        time.sleep(0.01)
    return process


class TestProcesses:
    def test_orphans_are_ended_with_their_service(self, run: Processes) -> None:
        process = begun(run)
        [child] = process.children()
        process.kill()
        process.wait(10)
        assert run.find("server") is None
        assert run.alive() == ["server"]
        assert run.stop([serving(run.home)]) == ["server"]
        assert not child.is_running()
        assert run.stop([serving(run.home)]) == []

    def test_a_start_ends_orphans_first(self, run: Processes) -> None:
        process = begun(run)
        [child] = process.children()
        process.kill()
        process.wait(10)
        begun(run)
        assert not child.is_running()
        assert run.stop([serving(run.home)]) == ["server"]

    def test_another_s_answer_is_not_taken_for_its_own(self, run: Processes) -> None:
        service = serving(run.home, "print('no port for me')")
        run.start(service)
        while run.find(service.name):
            time.sleep(0.01)
        with pytest.raises(StackError, match=r"server ended at its start(.|\n)*no port for me"):
            run.wait(service)  # though what asks whether it is healthy hears yes

    def test_a_record_that_cannot_be_read_may_name_something(self, run: Processes) -> None:
        (run.home / "run").mkdir()
        (run.home / "run" / "server.json").write_text('{"pid": 1}')
        with pytest.raises(StackError, match=r"server\.json cannot be read"):
            stack.open_stack(Layout(home=run.home))


class TestIdentity:
    def test_it_is_this_process_in_this_boot(self) -> None:
        me = Identity.of(os.getpid())
        assert me.process() == psutil.Process()
        for other in (replace(me, boot="before"), replace(me, started="0")):
            assert other.process() is None
            assert other.session() == []  # lest sessions of others are killed

    def test_clocks_are_not_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        me = Identity.of(os.getpid())
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: 0.0)
        assert me.process() is not None

    def test_a_zombie_does_not_live(self) -> None:
        with subprocess.Popen(["true"], start_new_session=True) as process:
            known = Identity.of(process.pid)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert known.process() is None
            assert in_sessions({process.pid}) == []


class TestLayout:
    def test_ports_are_not_those_of_outgoing_connections(self) -> None:
        ports = free_ports(50)
        assert len(set(ports)) == 50
        assert set(ports) <= set(FREE)

    @pytest.mark.parametrize(
        ("visible", "count"),
        [(None, 2), ("", 0), ("1", 1), ("0,1", 2), ("0,5", 1), ("-1", 0), ("GPU-a,GPU-b", 2)],
    )
    def test_gpus(self, visible: str | None, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "glob", lambda self, _: [self / "nvidia0", self / "nvidia1"])
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpus() == count

    def test_one_that_cannot_be_read_is_all_that_has_to_go(self, tmp_path: Path) -> None:
        (tmp_path / "layout.json").write_text("{")
        with pytest.raises(StackError, match="remove that file, and no other"):
            remembered(tmp_path)

    def test_inner_ports_are_chosen_anew_when_nothing_runs(self, tmp_path: Path) -> None:
        first = stack.open_stack(Layout(home=tmp_path)).layout
        second = stack.open_stack(first).layout
        assert first.inner_ports.keys() == second.inner_ports.keys()
        assert first.inner_ports != second.inner_ports
        assert remembered(tmp_path) == second

    def test_flags_are_not_changed_under_a_running_stack(self, run: Processes) -> None:
        layout = stack.open_stack(Layout(home=run.home)).layout
        begun(run)
        assert stack.open_stack(layout).layout == layout
        with pytest.raises(StackError, match=r"\(server\): stop it first: make stack-stop"):
            stack.open_stack(replace(layout, workers=1))
        assert remembered(run.home) == layout
        run.stop([serving(run.home)])


class TestEnvironment:
    def test_what_goes_to_nodes_and_what_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("https_proxy", "HTTP_PROXY", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.setenv(name, "kept")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another's")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("NO_PROXY", "example.org")
        layout = with_inner_ports(Layout(home=Path("/nowhere")))
        given = ray_cluster.head(layout, KEYS, {}).environment
        assert {given[name] for name in ("https_proxy", "HTTP_PROXY")} == {"kept"}
        assert {given[name] for name in ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")} == {"kept"}
        assert given["NO_PROXY"] == given["no_proxy"] == "example.org,127.0.0.1,localhost"
        assert not {"AWS_SECRET_ACCESS_KEY", "OMP_NUM_THREADS"} & given.keys()
        assert "https_proxy" not in clean_environment()

    def test_hosts_without_a_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("no_proxy", "localhost")
        assert no_proxy("10.0.0.1")["NO_PROXY"] == "localhost,127.0.0.1,10.0.0.1"
        monkeypatch.setenv("no_proxy", "*")
        assert machine_environment()["no_proxy"] == "*"


KEYS = stack.Passwords(**{name: "secret" for name in stack.Passwords.__dataclass_fields__})


class TestPostgres:
    def test_a_lock_that_names_another_program_goes(self, tmp_path: Path) -> None:
        data = tmp_path / "postgres"
        data.mkdir()
        (data / "PG_VERSION").touch()
        for pid, left in ((os.getpid(), False), (2**22 + 1, True)):  # the latter is nobody's
            (data / "postmaster.pid").write_text(f"{pid}\n{data}\n")
            postgres.prepare(Layout(home=tmp_path), "")
            assert (data / "postmaster.pid").exists() is left

    def test_its_errors_are_the_stack_s(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(**_: object) -> None:
            raise psycopg2.OperationalError("no more connections\n")

        monkeypatch.setattr(psycopg2, "connect", refuse)
        with pytest.raises(StackError, match=r"no more connections$"):
            postgres.make_databases(Layout(home=Path("/nowhere")), "")


class TestRoom:
    def test_it_belongs_to_a_home(self) -> None:
        """A stack that stops must not take away another's that has the same ports."""
        rooms = {ray_cluster.room(Layout(home=Path(home))) for home in ("/one", "/two")}
        assert len(rooms) == 2

    def test_it_is_ours_alone(self, tmp_path: Path) -> None:
        (tmp_path / "room").mkdir(mode=0o777)
        for _ in range(2):
            ray_cluster.make_room(tmp_path / "room")
            assert (tmp_path / "room").stat().st_mode & 0o777 == 0o700

    def test_another_s_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        (tmp_path / "room").mkdir()
        with pytest.raises(StackError, match="somebody else's"):
            ray_cluster.make_room(tmp_path / "link")
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(StackError, match="somebody else's"):
            ray_cluster.make_room(tmp_path / "room")


def test_a_certificate_is_made_once_and_its_key_is_its_owner_s(tmp_path: Path) -> None:
    own, key = tmp_path / "grpc.pem", tmp_path / "grpc.key"
    certificate.make(own, key)
    before = own.read_text(), key.read_text()
    certificate.make(own, key)
    assert before == (own.read_text(), key.read_text())
    assert key.stat().st_mode & 0o777 == 0o600


class TestCommand:
    @pytest.fixture(autouse=True)
    def restored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the command changes in its own environment."""
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "")

    def test_one_at_a_time(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with alone(tmp_path):
            assert stack.main(["start", f"--home={tmp_path}"]) == 2
        assert "another command works on" in capsys.readouterr().err
        with alone(tmp_path):
            pass

    def test_without_a_stack(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        home = tmp_path / "none"
        codes = [stack.main([action, f"--home={home}"]) for action in ("stop", "remove", "status")]
        assert codes == [0, 0, 1]
        assert capsys.readouterr().out.count("there is no stack in") == 3
        assert not home.exists()

    def test_with_one_that_does_not_run(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        stack.open_stack(Layout(home=tmp_path, workers=0))
        assert stack.main(["status", f"--home={tmp_path}"]) == 1
        assert "postgres       does not run" in capsys.readouterr().out
        assert stack.main(["stop", f"--home={tmp_path}"]) == 0
        assert capsys.readouterr().out == f"nothing runs of the stack in {tmp_path}\n"

    def test_it_is_interrupted(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(postgres, "prepare", lambda *_: signal.raise_signal(signal.SIGINT))
        # A shell that starts the tests in its background has told them to ignore it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            assert stack.main(["start", f"--home={tmp_path}"]) == 130
        finally:
            signal.signal(signal.SIGINT, before)
        assert capsys.readouterr().err.count("\n") == 1

    def test_it_asks_no_proxy(self, tmp_path: Path) -> None:
        stack.main(["status", f"--home={tmp_path}"])
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "127.0.0.1,localhost"


class TestJoin:
    """With an `ssh` that runs its command here."""

    @pytest.fixture
    def head(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where the head's file lies."""
        ssh = tmp_path / "bin" / "ssh"
        ssh.parent.mkdir()
        ssh.write_text(f'#!/bin/sh\nshift 3\ncd {shlex.quote(str(tmp_path))} && exec sh -c "$1"\n')
        ssh.chmod(0o755)
        monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("STAGEFLOW_HOME", str(tmp_path / "home"))
        (tmp_path / ".stageflow" / "stack").mkdir(parents=True)
        return tmp_path / join.NODE_FILE

    def test_values_are_quoted(self) -> None:
        assert join.variables("export A='1 2'\nexport B=x=y\n") == {"A": "1 2", "B": "x=y"}

    def test_there_is_no_stack(self, head: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert join.main(["head"]) == 2
        assert "head tells nothing of a stack" in capsys.readouterr().err

    def test_another_python(self, head: Path, capsys: pytest.CaptureFixture[str]) -> None:
        head.write_text("export STACK_PYTHON=3.8\nexport STACK_PORTS=1\n")
        assert join.main(["head", "--num-gpus=2"]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"runs Python 3.8, and this machine {minor_version()}" in told

    def test_its_earlier_node_is_stopped_first(
        self, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = Processes(tmp_path / "home" / "joined")
        begun(run)
        (run.home / "run" / "server.json").rename(run.home / "run" / "tunnel.json")
        head.write_text("export STACK_PYTHON=3.8\nexport STACK_PORTS=1\n")
        assert join.main(["head"]) == 2
        assert run.alive() == []
        assert join.main(["leave"]) == 0
        assert capsys.readouterr().out == "nothing runs\n"

    def test_a_tunnel_comes_back(self, tmp_path: Path, head: Path) -> None:
        service = join.tunnel(tmp_path, "head", {"STACK_PORTS": "1"})
        assert "while :; do ssh" in service.command[-1]
        assert "-L127.0.0.1:1:127.0.0.1:1" in service.command[-1]


def test_records_hold_what_identifies(run: Processes) -> None:
    process = begun(run)
    record = json.loads((run.home / "run" / "server.json").read_text())
    assert record == asdict(Identity.of(process.pid))
    run.stop([serving(run.home)])
