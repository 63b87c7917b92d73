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

SETUP = """\
# Set-up. It installs the course's package where that is missing, and leaves torch, numpy and transformers as they are.
import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # a library's warning below a graded cell would cost its points
os.environ["TOKENIZERS_PARALLELISM"] = "false"

folders = [Path.cwd(), *Path.cwd().parents]
checkout = next((str(folder) for folder in folders if (folder / "lora_ref" / "__init__.py").is_file()), None)
if checkout and checkout not in sys.path:
    sys.path.insert(0, checkout)
elif importlib.util.find_spec("lora_ref") is None:
{source}
    here = [name for name in ("torch", "numpy", "transformers") if importlib.util.find_spec(name)]
    kept = [f"{{name}}=={{importlib.metadata.version(name)}}" for name in here]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source, *kept], check=True)
    importlib.invalidate_caches()
"""
FROM_WHEEL = """\
    drive = Path("/content/drive/MyDrive")  # Colab's place for Google Drive, once it is mounted
    places = [*folders, drive, *drive.glob("*")]
    source = next((str(file) for place in places for file in place.glob("lora_ref-*-none-any.whl")), None)
    if source is None:
        where = "the notebook's folder (in Colab: upload it with the folder icon on the left, or mount Drive)"
        raise ModuleNotFoundError(f"put lora_ref-*.whl, which came with this notebook, into {where}")"""
FROM_GIT = '    source = "lora_ref @ git+{address}@{branch}"'
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
        ValueError: it is no such address.
    """
    file = root / "pyproject.toml"
    if not file.is_file():
        return None
    address = tomllib.loads(file.read_text(encoding="utf-8"))["project"].get("urls", {}).get("Repository")
    if address is None:
        return None
    # nothing that could end the string it is put into
    found = re.fullmatch(r"(https://[\w.-]+/[\w.-]+/[\w.-]+?)(?:\.git)?/?(?:/tree/([\w./-]+))?", address, re.ASCII)
    if found is None:
        raise ValueError(f"pyproject.toml: Repository {address!r} is not like https://github.com/owner/name")
    return Repository(found[1], found[2] or "main")


def setup(public: Repository | None) -> str:
    """The source that every set-up cell begins with."""
    source = FROM_WHEEL if public is None else FROM_GIT.format(address=public.address, branch=public.branch)
    return SETUP.format(source=source)


def badge(public: Repository | None, stage: str) -> str:
    """Markdown that opens a stage's notebook in Colab; empty where Colab cannot: it reads GitHub alone."""
    path = public.address.partition("https://github.com/")[2] if public else ""
    return BADGE.format(path=path, branch=public.branch, stage=stage) if path else ""
