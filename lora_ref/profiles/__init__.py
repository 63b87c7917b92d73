"""The three sizes the course runs in: ``tiny`` for checks, ``laptop`` for two CPU cores, ``t4`` for Colab's GPU.

Each is one file here: an object that says its sizes and makes its model, tokenizer, sentences and digits. A new profile
is a new file and its name in `PROFILES`.

`choose` picks one and says so where it cannot have the one that was asked for: nothing falls back in silence.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType

from lora_ref.hub import HUB_DATA, HUB_MODEL, HUB_TIMEOUT, hub_problem
from lora_ref.profiles.base import METHODS, Profile
from lora_ref.profiles.laptop import LAPTOP, laptop_problem
from lora_ref.profiles.t4 import T4, gpu_problem
from lora_ref.profiles.tiny import TINY

__all__ = [
    "HUB_DATA",
    "HUB_MODEL",
    "HUB_TIMEOUT",
    "LAPTOP",
    "METHODS",
    "PROFILES",
    "T4",
    "TINY",
    "Profile",
    "ProfileError",
    "announce",
    "choose",
    "get",
    "gpu_problem",
    "hub_problem",
    "laptop_problem",
]

#: By name, the smallest first: where one cannot be had, the next smaller one serves.
PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in (TINY, LAPTOP, T4)})


class ProfileError(RuntimeError):
    """The profile that was asked for cannot be had here; the message says what is missing and what to do.

    Example:
        >>> raise ProfileError("t4 needs a GPU; there is none here")
        Traceback (most recent call last):
            ...
        lora_ref.profiles.ProfileError: t4 needs a GPU; there is none here
    """


def get(name: str) -> Profile:
    """The profile of that name, whether this machine can run it or not.

    Raises:
        ValueError: there is no such profile; the message names the nearest.

    Example:
        >>> get("laptop").base_model
        "all-MiniLM-L6-v2, a pretrained encoder of 22.7 M parameters, in RoBERTa's classes"
        >>> get("labtop")
        Traceback (most recent call last):
            ...
        ValueError: no profile 'labtop'; nearest: 'laptop'; there are: 'tiny', 'laptop', 't4'
    """
    if name not in PROFILES:
        near = difflib.get_close_matches(str(name).lower(), PROFILES, n=1, cutoff=0.4)
        hint = f"nearest: {near[0]!r}; " if near else ""
        raise ValueError(f"no profile {name!r}; {hint}there are: {', '.join(map(repr, PROFILES))}")
    return PROFILES[name]


def choose(name: str | None = None, *, strict: bool = False) -> Profile:
    """The profile to run in.

    ``name`` if given, else the environment variable ``LORA_PROFILE``, else ``t4`` on a machine with a CUDA GPU and a
    reachable hub, else ``laptop``. For ``laptop`` the assets are fetched here if they are not cached yet: that is the
    only sure way to know that they can be had.

    Args:
        name: ``"tiny"``, ``"laptop"`` or ``"t4"``.
        strict: raise where the profile cannot be had. Otherwise the next smaller one that can serves instead
            (``t4``, ``laptop``, ``tiny``), and a printed line says which and why.

    Raises:
        ProfileError: ``strict``, and the profile cannot be had.
        ValueError: there is no such profile; the message names the nearest.

    Example:
        >>> choose("tiny").purpose
        'checks, grading and unit tests: seconds, and no claim about language'
    """
    wanted = name or os.environ.get("LORA_PROFILE") or None
    if wanted is None:
        # Nobody asked for t4 here, so its absence is not news: a machine without a GPU is the ordinary case.
        wanted = "t4" if T4.problem() is None else "laptop"
    get(wanted)
    smaller_first = list(PROFILES)
    problems: list[str] = []
    for candidate in reversed(smaller_first[: smaller_first.index(wanted) + 1]):
        problem = PROFILES[candidate].problem()
        if problem is None:
            if problems:
                print(f"Profile {candidate!r} serves instead of {wanted!r}. " + " ".join(problems), flush=True)
            return PROFILES[candidate]
        if strict:
            raise ProfileError(f"profile {wanted!r} is not available: {problem}")
        problems.append(f"{candidate!r} is not available: {problem}")
    raise AssertionError("tiny needs nothing")


def announce(stage: int) -> Profile:
    """Choose the profile of a stage's notebook, and print what runs: the device, the model and data, the time.

    Args:
        stage: 1 to 5.

    Raises:
        ValueError: ``LORA_PROFILE`` names no profile.

    Example:
        >>> os.environ["LORA_PROFILE"] = "tiny"
        >>> profile = announce(1)  # the first line says which GPU there is
        torch ...
        profile tiny: a random RoBERTa of about 20,000 parameters; sentences made on the spot
        running all cells of stage 1 takes about half a minute
        >>> del os.environ["LORA_PROFILE"]
    """
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        device = f"GPU {gpu.name} with {gpu.total_memory / 2**30:.0f} GiB"
    else:
        device = f"no GPU, {os.cpu_count()} CPU cores"
        if "google.colab" in sys.modules:
            device += " (for a GPU: Runtime, Change runtime type, T4, and begin again at this cell)"
    print(f"torch {torch.__version__}, {device}", flush=True)
    profile = choose()
    minutes = profile.notebook_minutes[stage - 1]
    time = f"{minutes:g} minutes" if minutes > 1 else "a minute" if minutes > 0.5 else "half a minute"
    print(f"profile {profile.name}: {profile.base_model}; {profile.data}")
    print(f"running all cells of stage {stage} takes about {time}{profile.machine}")
    return profile
