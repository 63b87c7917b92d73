"""How every notebook opens: the set-up that all stages share and, where the course has a public address, a badge.

The address is `Repository` under `[project.urls]` in pyproject.toml. With one, `make build` puts an "Open in Colab"
badge below each title, and the set-up installs `lora_ref` from there with git; without one it looks for the wheel that
`make release` puts beside the notebooks.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SOURCE = Path(__file__).with_name("bootstrap.py").read_text(encoding="utf-8")
#: How every set-up begins: `autograder.publish.bootstrap` without its docstring and what only tools read.
BOOTSTRAP = "# @title Set-up: finds the course's package, and changes nothing that is installed\n" + (
    _SOURCE[_SOURCE.index("\nimport ") + 1 :].replace("\n\n\n", "\n\n")
)
FIND = """
# VS Code's working folder may be another than the notebook's
found_lora_ref = find_lora_ref(Path.cwd(), Path.cwd().joinpath(globals().get("__vsc_ipynb_file__", "this")).parent)
if importlib.util.find_spec("lora_ref") is None:
{without}
from lora_ref import environment
environment.prepare(*found_lora_ref)
"""
FROM_WHEEL = """\
    colab = "on the Files panel; is it in your Drive? mount that there"
    raise ModuleNotFoundError(f"put lora-from-scratch-*.zip beside this notebook (Colab: {colab}) and run this cell")\
"""
FROM_GIT = """\
    import subprocess
    sys.path.insert(0, tempfile.mkdtemp(prefix="lora_ref-"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", sys.path[0]]
    subprocess.run([*pip, "lora_ref @ git+{address}@{branch}"], check=True)"""
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{path}/blob/{branch}/notebooks/{stage}/{stage}.ipynb)"
)


@dataclass(frozen=True)
class Repository:
    """Where the course is public.

    Attributes:
        address: what git clones, without `.git`.
        branch: the branch that students get.
    """

    address: str
    branch: str = "main"


def repository(root: Path) -> Repository | None:
    """The address that pyproject.toml names; None if it names none.

    `https://github.com/owner/name`, or with another branch `https://github.com/owner/name/tree/branch`.

    Raises:
        ValueError: it is something else.
    """
    file = root / "pyproject.toml"
    if not file.is_file():
        return None
    address = tomllib.loads(file.read_text(encoding="utf-8"))["project"].get("urls", {}).get("Repository")
    if address is None:
        return None
    # nothing that could end the string it is put into
    match = re.fullmatch(r"(https://[\w.-]+/[\w.-]+/[\w.-]+?)(?:\.git)?/?(?:/tree/([\w./-]+))?", address, re.ASCII)
    if match is None:
        raise ValueError(f"pyproject.toml: Repository {address!r} is not like https://github.com/owner/name")
    return Repository(match[1], match[2] or "main")


def setup(public: Repository | None) -> str:
    """The source that every set-up cell begins with."""
    without = FROM_WHEEL if public is None else FROM_GIT.format(address=public.address, branch=public.branch)
    return BOOTSTRAP + FIND.format(without=without)


def badge(public: Repository | None, stage: str) -> str:
    """Markdown that opens a stage's notebook in Colab; empty where Colab cannot: it reads GitHub alone."""
    path = public.address.partition("https://github.com/")[2] if public else ""
    return BADGE.format(path=path, branch=public.branch, stage=stage) if public and path else ""
