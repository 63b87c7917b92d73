"""Control groups: who gets one, with what in it, and what is left.

Most are on a file system that stands for the kernel's; the last are on the kernel's own, where a group can be made.
"""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from autograder.engine import cgroup
from autograder.engine.sandbox import ROOT, Sandbox, SandboxError

#: What the kernel puts into a new group.
FILES = ("cgroup.procs", "cgroup.kill", "memory.max", "memory.events", "memory.oom.group", "pids.max", "cpu.weight")


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A delegated scope with this process in it; returns the scope's folder."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroup, "PROC", tmp_path / "proc")
    scope = tmp_path / "cgroup" / "user.slice" / "run.scope"
    scope.mkdir(parents=True)
    for name, text in (
        ("controllers", "cpu io memory pids"),
        ("procs", f"{os.getpid()}\n7\n"),
        ("subtree_control", ""),
    ):
        (scope / f"cgroup.{name}").write_text(text)
    for pid, parent in (("self", 0), ("7", os.getpid()), ("8", 1)):
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "stat").write_text(f"{pid} (a ) b) S {parent} 1 1")
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/user.slice/run.scope\n")
    make, remove = pathlib.Path.mkdir, pathlib.Path.rmdir

    def mkdir(path, *arguments, **options):
        make(path, *arguments, **options)
        for name in FILES:
            (path / name).write_text("")

    def rmdir(path):
        for file in path.iterdir():
            file.unlink()
        remove(path)

    monkeypatch.setattr(pathlib.Path, "mkdir", mkdir)
    monkeypatch.setattr(pathlib.Path, "rmdir", rmdir)
    return scope


def test_each_submission_has_a_group_with_its_limits_until_it_ends(kernel):
    groups = cgroup.probe()
    assert (kernel / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (kernel / f"lora-{os.getpid()}" / "cgroup.procs").read_text() == "7"  # each is written by itself
    one, other = groups.new(6_000, 128), groups.new(5_000, 64)
    assert one.path.parent == other.path.parent == kernel
    assert [(one.path / name).read_text() for name in ("memory.max", "pids.max", "cpu.weight")] == [
        "6000",
        "128",
        "100",
    ]
    assert one.over() == ""
    door = one.door()
    os.write(door, b"0")
    os.close(door)
    assert (one.path / "cgroup.procs").read_text() == "0"
    (one.path / "memory.events").write_text("low 0\nmax 9\noom 1\noom_kill 1\n")
    assert one.over() == "memory"
    kept = one.path
    one.close()
    assert not kept.exists()
    assert other.path.exists()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("proc/self/cgroup", "4:memory:/a\n0::/user.slice/run.scope\n"),  # version 1 beside it
        ("proc/self/cgroup", "0::/\n"),  # the whole machine's
        ("proc/self/cgroup", "0::/gone\n"),
        ("cgroup/user.slice/run.scope/cgroup.controllers", "cpu pids"),
        ("cgroup/user.slice/run.scope/cgroup.procs", "{self}\n8\n"),  # somebody else's process is in it
        ("cgroup/user.slice/run.scope/cgroup.procs", "{self}\n9\n"),  # gone meanwhile
    ],
)
def test_no_group_is_taken_that_was_not_given(kernel, tmp_path, file, text):
    (tmp_path / file).write_text(text.replace("{self}", str(os.getpid())))
    assert cgroup.probe() is None
    assert (kernel / "cgroup.subtree_control").read_text() == ""
    assert [path for path in kernel.iterdir() if path.is_dir()] == []


def test_where_the_kernel_refuses_everything_is_as_before(kernel, monkeypatch):
    (kernel / "cgroup.subtree_control").unlink()
    (kernel / "cgroup.subtree_control").mkdir()  # cannot be written
    monkeypatch.setattr(cgroup, "_processes", lambda group: [])
    assert cgroup.probe() is None
    assert not (kernel / f"lora-{os.getpid()}").exists()
    assert cgroup.Groups(kernel / "nothing").new(1, 1) is None


def test_a_container_s_limit_is_the_machine_s(kernel):
    assert cgroup.allowed_memory() is None
    (cgroup.ROOT / "memory.max").write_text("max")
    assert cgroup.allowed_memory() is None
    (cgroup.ROOT / "memory.max").write_text("8000000000\n")
    assert cgroup.allowed_memory() == 8_000_000_000


def test_a_door_that_could_not_be_given_away_is_closed(kernel):
    box = Sandbox.__new__(Sandbox)
    box.kind, box.nested, box._fresh, box._warm, box._group = "bwrap", True, False, None, None
    box.groups = cgroup.Groups(kernel)
    box._control, other = socket.socketpair()
    other.close()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SandboxError, match="the warm process is gone"):
        box.start()
    assert len(os.listdir("/proc/self/fd")) == before - 1  # its control socket, which is of no use any more
    box._leave_group()


#: In a group of its own: what `probe` finds there, and a submission that goes through the door as another user.
REAL = """
import os, sys
from pathlib import Path
from autograder.engine import cgroup
from autograder.engine.sandbox import Sandbox

mount, scope, process = map(Path, sys.argv[1:4])
(scope / "cgroup.procs").write_text("0")
cgroup.ROOT, cgroup.PROC = mount, process
cgroup.CONTROLLERS = tuple(n for n in cgroup.CONTROLLERS if n in (scope / "cgroup.controllers").read_text().split())
groups = cgroup.probe()
assert groups is not None and groups.own == scope
assert (scope / "cgroup.procs").read_text() == ""
assert set((scope / "cgroup.subtree_control").read_text().split()) == set(cgroup.CONTROLLERS)
Sandbox.groups = groups
with Sandbox("bwrap", modules=["torch"]) as box:
    box.start()
    inside = cgroup._processes(box._group.path)
    assert len(inside) >= 1, inside
    path = box._group.path
    box.kill()
    assert not path.exists()
    box.start()
    path = box._group.path
    box._group.close()  # the kernel ends what is in it
    assert not path.exists()
    assert box.kill()["over"] == ""
for pid in cgroup._processes(scope / f"lora-{os.getpid()}"):
    if pid != os.getpid():
        os.kill(pid, 9)
print("THERE", *cgroup.CONTROLLERS)
"""


@pytest.mark.slow
def test_on_the_kernel_s_own_file_system(tmp_path, bubblewrap):
    mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    mount = next((pathlib.Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    if mount is None:
        pytest.skip("no control group can be made: version 2 of them is not mounted here")
    scope = mount / f"test-{os.getpid()}.scope"
    try:
        scope.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made below {mount}: {error.strerror}")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(f"0::/{scope.name}\n")  # as where version 2 is alone
    line = [sys.executable, "-c", REAL, mount, scope, tmp_path]
    try:
        done = subprocess.run(
            list(map(str, line)), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
    finally:
        for path in [*scope.glob("lora-*"), scope]:
            path.rmdir()
    assert done.stdout.startswith("THERE"), done.stderr
