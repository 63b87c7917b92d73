"""Which packages the course needs, which are here, and how to install the others; with Python's own library alone."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from pathlib import Path

__all__: list[str] = []  # nothing for others: `lora_ref.environment` and `lora_ref.doctor` use it


def pip_install(*requirements: str) -> str:
    """The command that installs these here."""
    return f"{sys.executable} -m pip install " + " ".join(
        f'"{r}"' if set(r) & set("<>;[ ") else r for r in requirements
    )


def requirements() -> dict[str, str]:
    """What the course needs, name to requirement: from the installed package, or from the checkout's pyproject.toml."""
    try:
        lines = importlib.metadata.requires("lora_ref") or []
    except importlib.metadata.PackageNotFoundError:
        file = Path(__file__).resolve().parents[1] / "pyproject.toml"
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        # not with tomllib: Python 3.10 has none, and the file is ours, with a requirement a line
        block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
        lines = ["torch", "transformers", "datasets", "ipywidgets", "matplotlib", "safetensors"]
        if block:
            lines = re.findall(r'^ *"([^"]+)"', block[1], re.MULTILINE)
    requirements = {}
    for line in lines:
        if "extra ==" not in line:
            plain = line.partition(";")[0].strip()
            name = plain.translate(str.maketrans("<>=!~[ ", "       ")).split()[0]
            requirements[name] = plain
    return requirements


def version_of(name: str) -> str | None:
    """An installed package's version; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def within(requirement: str, version: str) -> bool:
    """True if the version is within the bounds; also where nothing here can tell."""
    for module in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        try:
            return (
                importlib.import_module(module).Requirement(requirement).specifier.contains(version, prereleases=True)
            )
        except ImportError:
            continue
    return True
