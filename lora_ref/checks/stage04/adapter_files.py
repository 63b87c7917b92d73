"""Exercise 4.5: the files that its probes write, read, and damage."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lora_ref.checks.probing import Names, array


def in_scratch_folder(probe: Callable[..., dict]) -> Callable[..., dict]:
    """Give a probe an empty folder, which goes once the probe has let go of its models.

    A right answer's tensors may stay mapped to the file, and Windows removes no file that is mapped. What can't be
    removed even then stays in the system's temporary folder: that is not a student's mistake.
    """

    @functools.wraps(probe)
    def run(names: Names, **inputs: Any) -> dict:
        folder = Path(tempfile.mkdtemp(prefix="lora-check-"))
        try:
            return probe(names, folder, **inputs)
        finally:  # not TemporaryDirectory: Python 3.11's raises in spite of ignore_cleanup_errors
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                gc.collect()  # a model that refers to itself outlives its names
                shutil.rmtree(folder, ignore_errors=True)

    return run


def read_adapter(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, or why it is none."""
    from safetensors.torch import load_file

    if not path.is_file():
        return {"problem": "no file at the path" if not path.exists() else "the path is a folder"}
    if path.stat().st_size > 5_000_000:
        return {"problem": f"a file of {path.stat().st_size:,} bytes"}
    try:
        return {"tensors": {name: array(values) for name, values in load_file(path).items()}}
    except Exception as error:  # the file is a student's: anything may be in it
        head = path.read_bytes()[:4]
        kind = "a pickle (torch.save)" if head[:2] in (b"PK", b"\x80\x02", b"\x80\x04") else "no safetensors file"
        return {"problem": f"{kind}: {type(error).__name__}"}


def edit_file(source: Path, target: Path, kind: str, place: str, base: Mapping[str, Any]) -> None:
    """Copy a safetensors file with one thing changed; what its metadata says stays.

    ``place``: the first or the last of its tensors, or the first matrix that is not square. What is unexpected is a
    tensor with a name like LoRA's, one with a ``foreign`` name, or one called as a ``frozen`` tensor of the base is.
    """
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(source, framework="np") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    oblong = {name for name, t in tensors.items() if t.ndim == 2 and t.shape[0] != t.shape[1]}
    name = (max if place == "last" else min)(oblong if place == "non-square" else tensors)
    if kind == "a model without LoRA":
        pass
    elif kind == "missing":
        del tensors[name]
    elif kind == "unexpected":
        names = {"first": "AAA.lora_A", "last": "zzz.lora_A", "foreign": "other.bias", "frozen": base["frozen"]}
        tensors[names[place]] = base["values"] if place == "frozen" else np.ones((2, 3), dtype=np.float32)
    elif kind == "renamed":
        tensors[name + "_2"] = tensors.pop(name)
    else:
        shapes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "one row more": lambda t: np.concatenate([t, t[:1]]),
            "one row": lambda t: t[:1],  # copy_ would broadcast it over all rows
            "one dimension more": lambda t: t[None],
            "one column more": lambda t: np.concatenate([t, t[:, :1]], axis=1),
            "one column": lambda t: t[:, :1],  # as one row
            "transposed": lambda t: t.T,
        }
        tensors[name] = np.ascontiguousarray(shapes[kind](tensors[name]))
    save_file(tensors, target, metadata=metadata)


class Trap:
    """What a hostile pickle holds: unpickling it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


def write_foreign(source: Path, target: Path, kind: str, marker: Path) -> None:
    """A file that is not an adapter: noise, half of one, or a pickle with a trap."""
    if kind == "noise":
        target.write_bytes(bytes(range(256)) * 40)
    elif kind == "half a file":
        target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    elif kind == "a torch.save file":
        torch.save({"lora_A": Trap(marker)}, target)
    else:
        target.write_bytes(pickle.dumps({"lora_A": Trap(marker)}))


FOREIGN = ("noise", "half a file", "a torch.save file", "a pickle")
