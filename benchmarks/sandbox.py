"""What running a submission in the sandbox costs beside an earlier commit: its start, one cell, its end.

The commit is from before submissions had networks and control groups of their own. Both sides are asked in turn; the
processor time is that of all processes together, which other work on the machine changes little.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from autograder.demo import ROOT

BEFORE = "8ad7f17"
SUBMISSIONS = 40
LIMIT = 15.0

#: Runs in a checkout: a submission for each line that it reads; then the seconds of processor time for one.
SIDE = """
import sys, time
import psutil
from autograder.engine import oracle, sandbox

def used(box):
    family = [psutil.Process(), *psutil.Process(box._warm.process.pid).children(recursive=True)]
    return sum(sum(one.cpu_times()[: 2 if one.pid == family[0].pid else 4]) for one in family)

def submission(box):
    session = oracle.Session(box, time.monotonic() + 60)
    session.ask({"do": "cell", "source": "x = 1"}, 30)
    session.close()

try:
    from autograder.engine import cgroup
    sandbox.Sandbox.groups = cgroup.probe()
except ImportError:
    pass
with sandbox.Sandbox("bwrap", int(sys.argv[1]), modules=["torch", "lora_ref.checks.stage02.e1_layer"]) as box:
    submission(box)
    before, count = used(box), 0
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        submission(box)
        count += 1
        print(time.perf_counter() - began, flush=True)
        if line == "last\\n":
            print((used(box) - before) / count, flush=True)
"""


def run() -> bool | None:
    """Print both sides; whether a submission costs at most `LIMIT` ms more. None where the commit cannot be had."""
    packed = subprocess.run(["git", "archive", BEFORE, "autograder", "lora_ref"], cwd=ROOT, capture_output=True)
    if packed.returncode:
        print(f"   no commit {BEFORE} here: {packed.stderr.decode().strip()[:200]}")
        return None
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as files:
            files.extractall(folder)
        sides = {"before": start(Path(folder), 1), "now": start(ROOT, 2)}
        walls: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(SUBMISSIONS):
            for name, side in sides.items():
                walls[name].append(ask(side, "last" if number == SUBMISSIONS - 1 else "next"))
        used = {name: 1000 * float(side.stdout.readline()) for name, side in sides.items() if side.stdout}
        for side in sides.values():
            side.communicate()
    fast = {name: 1000 * statistics.quantiles(wall, n=4)[0] for name, wall in walls.items()}  # other work apart
    for name in sides:
        print(f"   {name:<6}: {fast[name]:5.1f} ms from start to end, {used[name]:5.1f} ms of processor time")
    longer, more = fast["now"] - fast["before"], used["now"] - used["before"]
    print(f"   a submission takes {longer:.1f} ms and {more:.1f} ms of processor time more (at most {LIMIT:g})")
    return longer <= LIMIT and more <= LIMIT


def start(root: Path, number: int) -> subprocess.Popen[str]:
    """A side in that checkout, warm."""
    line = [sys.executable, "-c", SIDE, str(number)]
    side = subprocess.Popen(
        line,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert side.stdout
    if side.stdout.readline() != "ready\n":
        raise RuntimeError(f"the sandbox in {root} does not start")
    return side


def ask(side: subprocess.Popen[str], word: str) -> float:
    """Seconds for one submission."""
    assert side.stdin
    assert side.stdout
    print(word, file=side.stdin, flush=True)
    return float(side.stdout.readline())
