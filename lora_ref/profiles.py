"""The three sizes the course runs in: ``tiny`` for checks, ``laptop`` for two CPU cores, ``t4`` for Colab's GPU.

`choose` picks one and says so where it cannot have the one that was asked for: nothing falls back in silence.
"""

from __future__ import annotations

import difflib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

#: What the ``t4`` profile takes from the Hugging Face hub.
HUB_MODEL = "FacebookAI/roberta-base"
HUB_DATA = ("nyu-mll/glue", "sst2")
HUB_TIMEOUT = 4.0  # seconds

METHODS = ("head", "lora", "full")


@dataclass(frozen=True)
class Profile:
    """One size of the course; change a copy with ``dataclasses.replace(profile, epochs=3)``.

    Attributes:
        name: ``"tiny"``, ``"laptop"`` or ``"t4"``; decides which model and data serve.
        base_model, data, purpose: in words.
        train_size, validation_size, test_size: sentences.
        epochs: passes over the training sentences.
        train_batch_size, eval_batch_size: sentences a step.
        learning_rates: peak learning rate of AdamW by method (``"head"``, ``"lora"``, ``"full"``).
        warmup_fraction: share of all steps over which the learning rate rises.
        max_length: tokens a sentence is truncated to.
        fp16: train in half precision where there is CUDA. A T4 has no bf16, so fp16 with loss scaling it is.
        minutes: expected for head, LoRA and full training together, on the machine the profile is for.

    Example:
        >>> import dataclasses
        >>> TINY.name, TINY.train_size, TINY.learning_rates["lora"]
        ('tiny', 256, 0.01)
        >>> dataclasses.replace(TINY, epochs=1).epochs
        1
    """

    name: str
    base_model: str
    data: str
    purpose: str
    train_size: int
    validation_size: int
    test_size: int
    epochs: int
    train_batch_size: int
    eval_batch_size: int
    learning_rates: Mapping[str, float] = field(hash=False)
    warmup_fraction: float
    max_length: int
    fp16: bool
    minutes: float


TINY = Profile(
    name="tiny",
    base_model="a random RoBERTa of about 20,000 parameters",
    data="sentences made on the spot",
    purpose="checks, grading and unit tests: seconds, and no claim about language",
    train_size=256,
    validation_size=128,
    test_size=128,
    epochs=3,
    train_batch_size=16,
    eval_batch_size=64,
    learning_rates=MappingProxyType({"head": 1e-2, "lora": 1e-2, "full": 3e-3}),
    warmup_fraction=0.1,
    max_length=64,
    fp16=False,
    minutes=0.2,
)

LAPTOP = Profile(
    name="laptop",
    base_model="all-MiniLM-L6-v2, a pretrained encoder of 22.7 M parameters, in RoBERTa's classes",
    data="real film-review sentences, rated by 20 people each",
    purpose="real results on two CPU cores, without a hub",
    train_size=2_000,
    validation_size=500,
    test_size=1_000,
    epochs=2,
    train_batch_size=32,
    eval_batch_size=64,
    learning_rates=MappingProxyType({"head": 1e-3, "lora": 1e-3, "full": 5e-5}),
    warmup_fraction=0.1,
    max_length=128,
    fp16=False,
    minutes=2.5,
)

T4 = Profile(
    name="t4",
    base_model="roberta-base, 124.6 M parameters, from the hub",
    data="GLUE SST-2, 10,000 sentences by seeded shuffle, from the hub",
    purpose="Colab's GPU",
    train_size=10_000,
    validation_size=872,  # all of SST-2's validation set
    test_size=1_000,
    epochs=2,
    train_batch_size=32,
    eval_batch_size=64,
    learning_rates=MappingProxyType({"head": 1e-3, "lora": 5e-4, "full": 2e-5}),
    warmup_fraction=0.06,
    max_length=128,
    fp16=True,
    minutes=10,
)

PROFILES: Mapping[str, Profile] = MappingProxyType({p.name: p for p in (TINY, LAPTOP, T4)})

#: Minutes for running all cells of each stage's notebook, without what a person needs to read and to write. Measured on
#: two CPU cores; for the ``t4`` profile estimated.
NOTEBOOK_MINUTES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"tiny": (0.2, 0.1, 0.2, 0.3, 0.3), "laptop": (0.2, 0.4, 1.5, 3.5, 2.5), "t4": (1, 1, 4, 15, 10)}
)


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
        # Nobody asked for t4 here, so its absence is no news: a machine without a GPU is the ordinary case.
        wanted = "t4" if gpu_problem() is None and hub_problem() is None else "laptop"
    order = ["t4", "laptop", "tiny"]
    problems = []
    for candidate in order[order.index(get(wanted).name) :]:
        problem = _problem(candidate)
        if problem is None:
            if problems:
                print(f"Profile {candidate!r} serves instead of {wanted!r}. " + " ".join(problems), flush=True)
            return PROFILES[candidate]
        if strict:
            raise ProfileError(f"profile {wanted!r} cannot be had: {problem}")
        problems.append(f"{candidate!r} cannot be had: {problem}")
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
    minutes = NOTEBOOK_MINUTES[profile.name][stage - 1]
    time = f"{minutes:g} minutes" if minutes > 1 else "a minute" if minutes > 0.5 else "half a minute"
    where = {"tiny": "", "laptop": " on two CPU cores", "t4": " on a T4, by estimate"}[profile.name]
    print(f"profile {profile.name}: {profile.base_model}; {profile.data}")
    print(f"running all cells of stage {stage} takes about {time}{where}")
    return profile


def _problem(name: str) -> str | None:
    if name == "t4":
        return gpu_problem() or hub_problem()
    return laptop_problem() if name == "laptop" else None


def gpu_problem() -> str | None:
    """None where torch sees a CUDA GPU, else a sentence that says so.

    Example:
        >>> import torch
        >>> (gpu_problem() is None) == torch.cuda.is_available()
        True
    """
    import torch

    if torch.cuda.is_available():
        return None
    return "torch sees no CUDA GPU here (in Colab: Runtime, Change runtime type, T4)."


def hub_problem(timeout: float = HUB_TIMEOUT) -> str | None:
    """None where the Hugging Face hub answers for the base model within ``timeout`` seconds, else the reason.

    ``HF_ENDPOINT`` names another hub, and ``HF_HUB_OFFLINE`` counts as no hub, as everywhere in Hugging Face's tools.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, {"HF_HUB_OFFLINE": "1"}):
        ...     hub_problem()
        'HF_HUB_OFFLINE is set, so the hub is not asked; unset it to use the hub.'
    """
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return f"{variable} is set, so the hub is not asked; unset it to use the hub."
    endpoint = _endpoint()
    try:
        with urllib.request.urlopen(f"{endpoint}/api/models/{HUB_MODEL}", timeout=timeout) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, ValueError) as error:  # no name, no route, no answer in time; or HF_ENDPOINT is no address
        reason = getattr(error, "reason", error)
        return f"the hub at {endpoint} does not answer ({reason}); check the network, or HF_ENDPOINT."
    if status != 200:
        return f"the hub at {endpoint} answers {status} for {HUB_MODEL}; check HF_ENDPOINT, or try again later."
    return None


def _endpoint() -> str:
    own = os.environ.get("HF_ENDPOINT")
    if not own:
        from huggingface_hub import constants

        own = constants.ENDPOINT
    return own.rstrip("/")


def laptop_problem() -> str | None:
    """None where the laptop profile's assets are in the cache or could be fetched just now, else the reason.

    Example::

        laptop_problem()  # None: it fetches what is missing.
    """
    from lora_ref import assets

    try:
        assets.fetch_all()
    except assets.AssetError as error:
        return str(error)
    return None
