"""Three fuzzers of what a stranger's bytes reach: ``python tests/fuzzers.py wire|intake|zips SECONDS``.

    wire    a frame from the sandbox, through the border, to a judge and to a page
    intake  a notebook file, to the job that a worker would get
    zips    a zip file, to whose each file in it is

With atheris, where it is installed, coverage leads; without it, valid bytes are changed at random. An exception that
the code does not promise, more than 20 seconds or more than 2 GB for one input ends it with a status that is not 0.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import tempfile
import time
import zipfile
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["autograder", "zipfile"]) if atheris else contextlib.nullcontext():
    from autograder.engine import border, oracle, outputs
    from autograder.engine.assignment import Assignment
    from autograder.engine.inside import wire
    from autograder.engine.job import job_of
    from autograder.exercises import STAGES
    from autograder.intake import walk
    from autograder.intake.identity import places
    from autograder.intake.plan import plan
    from autograder.intake.submission import Submission
    from autograder.results import integrity

import numpy as np

from lora_ref.checks.verdicts import draw

STAGE = "02_lora_layer"
ASSIGNMENT = Assignment.load(STAGE)
CHECKS = [check for exercise in STAGES[STAGE] if not exercise.manual for check in exercise.hidden]


def fuzz_wire(data: bytes) -> None:
    size = wire.HEAD.size
    if len(data) < size + 1:
        return
    number, (_, text, _) = data[0], wire.HEAD.unpack(data[1 : size + 1])
    body = data[size + 1 :]
    try:
        value = wire.decode(body[: text % 4_000], body[text % 4_000 :])
        shown = outputs.clean_outputs(value.get("outputs") if type(value) is dict else value, 1)
        json.dumps(shown, ensure_ascii=False).encode()
        seen = border.clean(value)
    except (wire.WireError, border.Malformed):
        return
    if type(seen) is dict:
        check = CHECKS[number % len(CHECKS)]
        verdict = oracle._verdict(check, draw(check, 1), seen)
        json.dumps(verdict.to_dict(), ensure_ascii=False, allow_nan=False).encode()


def fuzz_intake(data: bytes) -> None:
    row = plan(Submission("ann", STAGE, "", lambda: data), ASSIGNMENT, 1, "needed")
    json.dumps([row.problem, row.notes], ensure_ascii=False).encode()
    if not row.problem:
        wire.encode(job_of(row, ASSIGNMENT, "needed"))
        integrity.flags(row, ASSIGNMENT)


def fuzz_zips(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "all.zip"
        path.write_bytes(data)
        files = list(walk.files_in(path, set()))
        for place, of in places(files):
            place.key[1].encode()
            for file in of[:20]:
                with contextlib.suppress(walk.Unreadable):
                    file.fetch()
                file.origin.encode()


def corpus(target: str) -> list[bytes]:
    """Valid bytes to begin with."""
    release = {**ASSIGNMENT.release, "cells": ASSIGNMENT.release["cells"][:14]}
    if target == "intake":
        return [json.dumps(release).encode()]
    if target == "zips":
        made = []
        for names in (["ann/02_lora_layer.ipynb"], ["a_1_2_x.ipynb", "b_assignsubmission_file_/x.ipynb", "é/c.zip"]):
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in names:
                    archive.writestr(name, made[0] if name.endswith(".zip") else b'{"cells": []}')
            made.append(out.getvalue())
        return made
    error = {"output_type": "error", "ename": "E", "evalue": "x", "traceback": ["\x1b[31m"]}
    values = [{"seen": {"A": np.ones((2, 3)), "raised": {"type": "E", "text": "t", "bases": ["E"]}}}]
    values += [{"outputs": [error, {"output_type": "display_data", "data": {"image/png": "iVBOR"}}]}]
    values += [{"A": np.ones((20, 3, 7)), "B": np.zeros((20, 7, 3)), "y": np.ones((2, 2), "f4"), "scaling": 1.5}]
    return [bytes([n]) + wire.encode(value) for value in values for n in (0, 9)]


def changed(data: bytes, dice: random.Random) -> bytes:
    """Bytes after a few changes of the kinds that parsers stumble over."""
    raw = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 5])):
        at, kind = dice.randrange(len(raw) + 1), dice.randrange(5)
        if kind == 0:
            raw[at : at + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            del raw[at : at + dice.randrange(1, 40)]
        elif kind == 2:
            raw[at:at] = raw[at : at + dice.randrange(1, 400)] * dice.choice([1, 1, 50])
        elif kind == 3:
            raw[at : at + 4] = dice.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"])
        else:
            odd = [b'"\\ud800"', b"1e999", b"NaN", b"[[[[[[", b"{}", b"null", b"9" * 400, b"\xed\xa0\x80", b"../", b"/"]
            raw[at:at] = dice.choice(odd)
    return bytes(raw)


def main(target: str, seconds: int) -> None:
    run = {"wire": fuzz_wire, "intake": fuzz_intake, "zips": fuzz_zips}[target]
    if atheris:
        with tempfile.TemporaryDirectory() as folder:
            for number, data in enumerate(corpus(target)):
                (Path(folder) / str(number)).write_bytes(data)
            limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2000", "-max_len=100000"]
            atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={tempfile.gettempdir()}/", folder], run)
            atheris.Fuzz()
        return
    dice, until, known, count = random.Random(0), time.monotonic() + seconds, corpus(target), 0
    while time.monotonic() < until:
        data = changed(dice.choice(known), dice)
        try:
            run(data)
        except BaseException:
            path = Path(tempfile.gettempdir()) / f"crash-{target}"
            path.write_bytes(data)
            print(f"input {count}: {path}", file=sys.stderr)
            raise
        count += 1
        if len(known) < 200 and count % 20 == 0:
            known.append(data)
    print(f"{target}: {count:,} inputs")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
