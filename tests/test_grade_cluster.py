"""The same jobs on a Dask cluster: the same grades, and lost workers cost nothing but time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import grade_course
import pytest
from distributed import Client, LocalCluster

from autograder import demo
from autograder.engine import cluster
from autograder.engine.assignment import ROOT, Assignment, environment_parts
from autograder.engine.job import job_of
from autograder.intake.discover import discover
from autograder.intake.plan import plan


@pytest.fixture(scope="module")
def dask(tmp_path_factory, bubblewrap):
    """Two worker processes of one thread each, as on machines of their own; a lost one is replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("dask"))
        with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as made:
            yield made


@pytest.fixture
def client(dask):
    with Client(dask) as made:
        yield made


def hand_in(root, count):
    """Submissions that earn 11 points."""
    for number in range(count):
        grade_course.hand_in(root, f"s{number}", grade_course.sample("half-done"))


def jobs(root):
    """What `autograder.grade` would give out for the class in ``root``."""
    assignment = Assignment.load(grade_course.STAGE)
    rows = [plan(s, assignment, 7, "needed") for s in discover(root, {grade_course.STAGE: assignment})]
    limits = {"cell_seconds": 60, "seconds": 120}
    return [{**job_of(row, assignment, "needed"), **limits} for row in rows]


def start(root, address):
    command = grade_course.command(root, root / "out", "--scheduler", address)
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_until(true, process=None):
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


def hold(folder):
    """On a worker: all its jobs after the first wait until the folder has a file ``go``."""
    begun, grade = [], cluster._grade

    def held(*arguments):
        begun.append(arguments)
        while len(begun) > 1 and not os.path.exists(f"{folder}/go"):
            time.sleep(0.05)
        return grade(*arguments)

    cluster._grade = held


def results(out):
    """What is stored: points and messages by the submission's key."""
    return {p.name: json.loads(p.read_text())["results"] for p in (out / ".grading" / "results").glob("*.json")}


def end(process):
    out, errors = process.communicate()
    assert process.returncode == 0, (out, errors)


def scores(root):
    return {student: row["score"] for student, row in grade_course.grades(root / "out").items()}


def judges():
    """On a worker: the process ids of its grading processes."""
    return [judge.process.pid for idle in cluster._idle.values() for judge in idle]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_same_seed_gives_the_same_grades_as_here(tmp_path, dask, client):
    demo.write_class(tmp_path / "submitted", [grade_course.STAGE])
    grade_course.hand_in(tmp_path, "nonsense", b"{")
    there = grade_course.grade(tmp_path, tmp_path / "there", "--scheduler", dask.scheduler_address)
    here = grade_course.grade(tmp_path, tmp_path / "here", "--workers", "1")
    assert here.returncode == there.returncode == 1, there.stderr  # one is not a notebook
    assert (tmp_path / "there" / "grades.csv").read_bytes() == (tmp_path / "here" / "grades.csv").read_bytes()
    assert results(tmp_path / "there") == results(tmp_path / "here")
    assert len(results(tmp_path / "here")) == 4
    kept = client.run(judges)
    assert [len(pids) for pids in kept.values()] == [1, 1]  # one for each worker, from job to job
    again = grade_course.grade(tmp_path, tmp_path / "there", "--scheduler", "tcp://127.0.0.1:9")
    assert "0/0 graded" in again.stderr  # nothing is left to do, so nobody looks for a scheduler


@pytest.mark.slow
def test_a_worker_is_killed_in_mid_run(tmp_path, dask, client):
    hand_in(tmp_path, 8)
    pids = client.run(os.getpid)
    client.run(hold, str(tmp_path))
    process = start(tmp_path, dask.scheduler_address)
    wait_until(lambda: len(results(tmp_path / "out")) == 2, process)
    busy, kept = [], client.run(judges)
    wait_until(lambda: busy.extend(a for a, keys in client.processing().items() if keys) or busy, process)
    os.kill(pids[busy[0]], signal.SIGKILL)
    (tmp_path / "go").touch()
    end(process)
    assert scores(tmp_path) == {f"s{n}": "11" for n in range(8)}
    assert len(results(tmp_path / "out")) == 8  # nothing twice
    wait_until(lambda: not any(map(alive, kept[busy[0]])))  # the lost worker's grading process ends by itself


@pytest.mark.slow
def test_a_worker_leaves_and_another_joins(tmp_path, dask, client):
    hand_in(tmp_path, 8)
    first = min(client.nthreads())
    client.run(hold, str(tmp_path))
    process = start(tmp_path, dask.scheduler_address)
    wait_until(lambda: results(tmp_path / "out"), process)
    dask.scale(3)
    wait_until(lambda: len(client.nthreads()) == 3, process)
    (tmp_path / "go").touch()
    client.retire_workers([first])
    assert first not in client.nthreads()
    end(process)
    assert scores(tmp_path) == {f"s{n}": "11" for n in range(8)}


def test_no_scheduler_is_a_clear_error(tmp_path, monkeypatch, capsys):
    from autograder.__main__ import main

    hand_in(tmp_path, 1)
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    options = ["--submissions", str(tmp_path), "--out", str(tmp_path / "out"), "--scheduler"]
    assert main(["grade", *options, "tcp://127.0.0.1:9"]) == 2
    assert "no scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err


def test_another_version_of_the_course_is_a_clear_error(tmp_path, monkeypatch):
    hand_in(tmp_path, 1)
    ours = [part.replace("torch ", "torch 1.") for part in environment_parts()]
    answer = json.loads(cluster.grade_job(json.dumps({"job": {}, "kind": "bwrap", "environment": ours})))
    assert "another version of the course: there torch " in answer["refused"]
    assert "here torch 1." in answer["refused"]
    with pytest.raises(cluster.ClusterError, match="another version"):
        cluster._record(json.dumps(answer), "tcp://somewhere")


def test_a_worker_without_a_sandbox_is_a_clear_error(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # no bwrap there
    order = {"job": {"seconds": 1}, "kind": "bwrap", "environment": environment_parts()}
    assert "has no sandbox" in json.loads(cluster.grade_job(json.dumps(order)))["refused"]


@pytest.mark.slow
def test_a_job_that_ends_its_grading_process_twice_is_given_up_and_others_go_on(tmp_path, monkeypatch, bubblewrap):
    hand_in(tmp_path, 1)
    monkeypatch.setattr(cluster, "_idle", {})
    (job,) = jobs(tmp_path)
    deadly, started = dict(job, seconds=0.5), []  # a deadline long before the answer

    class Deadly(cluster.Judge):
        def __init__(self, kind):
            super().__init__(kind)
            started.append(self)

        def grade(self, job):
            if job["seconds"] < 1:
                self.process.kill()
            return super().grade(job)

    monkeypatch.setattr(cluster, "Judge", Deadly)
    assert "the grading process ended" in cluster._grade(deadly, "bwrap")["failed"]
    assert [judge.process.poll() is None for judge in started] == [False, False]
    record = cluster._grade(job, "bwrap")
    assert sum(result["earned"] for result in record["results"]) == 11
    assert len(started) == 3
    started[-1].close()
