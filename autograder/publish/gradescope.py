"""The zip that makes a Gradescope programming assignment of a stage.

Gradescope unpacks it in a container, runs ``setup.sh`` once, and ``run_autograder`` for each submission
(`autograder.in_gradescope`). It holds the hidden checks of this stage and nothing else that is secret: no solution, no
mark scheme, no other stage's checks, no mutant. See docs/gradescope.md.
"""

from __future__ import annotations

import importlib.metadata
import json
import secrets
from pathlib import Path

from autograder.engine.assignment import ROOT
from autograder.engine.sources import rooms, sources
from autograder.publish.notebooks import BuildError, build
from autograder.publish.release import pack

#: When students see hidden checks; "hidden" is not among them, for Gradescope would hide the total with it.
SHOW = ("visible", "after_due_date", "after_published")

SETUP = r"""#!/usr/bin/env bash
# Gradescope runs this once, as root, when it builds the image: Python packages, and the sandbox if it can be had.
set -euo pipefail
root="${LORA_AUTOGRADER_ROOT:-/autograder}"
source="$root/source"
python="$root/python/bin/python" # an environment that every user may read and only root may change
torch_index='@TORCH_INDEX@'      # of CPU builds of torch; without it pip takes its default, with gigabytes of CUDA

chmod -R go= "$source" # students' code must not read the hidden checks
umask 022

apt() {
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

packages() {
    "$python" -c 'import IPython, accelerate, datasets, matplotlib, torch, transformers' 2>/dev/null
}

find_python() {
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    return 1
}

if ! command -v bwrap >/dev/null; then
    apt bubblewrap || echo "bubblewrap cannot be installed; submissions will run as another user"
fi

if packages; then
    echo "the packages are there already"
    exit 0
fi
if ! find_python >/dev/null; then
    apt python3-venv || true
fi
if ! found="$(find_python)"; then
    echo "Python 3.10 or newer is needed: choose Ubuntu 22.04 or newer as the base image" >&2
    exit 1
fi
"$found" -m venv "$root/python"
install() {
    "$python" -m pip install --quiet --no-cache-dir --disable-pip-version-check -c "$source/constraints.txt" "$@"
}
if [ -n "$torch_index" ]; then
    install --no-deps --index-url "$torch_index" torch
fi
install -r "$source/requirements.txt"
packages
"""

RUN = r"""#!/usr/bin/env bash
# Gradescope runs this for each submission.
root="${LORA_AUTOGRADER_ROOT:-/autograder}"
mkdir -p "$root/results"
# what stays if this does not come to its end, for want of memory, say
echo '{"score": 0, "stdout_visibility": "hidden", "output": "The autograder was stopped before it had a result.' \
    'Tell your instructor."}' >"$root/results/results.json"
cd "$root/source" && PYTHONPATH="$root/source" "$root/python/bin/python" -B -m autograder.in_gradescope "$root"
"""


def bundle(
    stage: str,
    root: Path = ROOT,
    *,
    seed: int | None = None,
    show: str = "after_due_date",
    cell_seconds: float = 60,
    seconds: float = 300,
    torch_index: str = "",
) -> bytes:
    """The zip for a stage.

    Args:
        stage: ``"02_lora_layer"`` and so on.
        root: the checkout; its notebooks must be what the build makes.
        seed: from which, with the submission's number, each submission's inputs are drawn; None draws one.
        show: when students see checks that they cannot run themselves: one of `SHOW`.
        cell_seconds, seconds: time limits of a cell and of a submission; Gradescope's own should be longer.
        torch_index: the address of an index of CPU builds of torch, for pip.

    Raises:
        BuildError: notebooks are out of date.
        ValueError: a setting is not what it may be.
    """
    if show not in SHOW:
        raise ValueError(f"show={show!r}; it may be {', '.join(SHOW)}")
    if "'" in torch_index or "\n" in torch_index:
        raise ValueError(f"{torch_index!r} is not the address of an index")
    if stale := build(root, check=True):
        raise BuildError(f"run `make build` first: {', '.join(str(path) for path in stale)}")
    settings = {
        "stage": stage,
        "seed": secrets.randbits(128) if seed is None else seed,
        "show": show,
        "cells": "needed",
        "cell_seconds": cell_seconds,
        "seconds": seconds,
    }
    code = sources(root, ["autograder.in_gradescope", *rooms(root, stage)])
    files = {name: text.encode() for name, text in code.items()}
    for folder in ("autograder/engine/inside", "lora_ref"):
        files |= {path.relative_to(root).as_posix(): path.read_bytes() for path in (root / folder).rglob("*.py")}
    notebook = f"notebooks/{stage}/{stage}.ipynb"
    files[notebook] = (root / notebook).read_bytes()
    files["constraints.txt"] = (root / "constraints.txt").read_bytes()
    files["requirements.txt"] = "".join(f"{line}\n" for line in requirements()).encode()
    files["gradescope.json"] = json.dumps(settings, indent=1).encode()
    files["setup.sh"] = SETUP.replace("@TORCH_INDEX@", torch_index).encode()
    files["run_autograder"] = RUN.encode()
    return pack(files, programs=("setup.sh", "run_autograder"))


def requirements() -> list[str]:
    """What `lora_ref` asks for, without its extras."""
    return sorted(line for line in importlib.metadata.requires("lora_ref") or () if "extra ==" not in line)
