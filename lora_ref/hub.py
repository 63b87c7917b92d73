"""The Hugging Face hub: what the course takes from it, whether it answers, and what to do where it does not."""

from __future__ import annotations

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator

#: What the ``t4`` profile takes from the hub.
HUB_MODEL = "FacebookAI/roberta-base"
HUB_DATA = ("nyu-mll/glue", "sst2")
HUB_TIMEOUT = 4.0  # seconds


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
        with urllib.request.urlopen(f"{endpoint}/api/models/{HUB_MODEL}", timeout=timeout) as response:
            status = response.status
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, ValueError) as error:  # no name, no route, no answer in time; or HF_ENDPOINT is not an address
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


@contextlib.contextmanager
def from_hub(what: str, instead: str = "or use LORA_PROFILE=laptop, which needs no hub") -> Iterator[None]:
    """Say what is missing and what else there is, where loading from the hub fails inside this block.

    Raises:
        RuntimeError: the network failed, or a cache in offline mode does not have it.

    Example:
        >>> with from_hub("a/model"):
        ...     raise OSError("no route")
        Traceback (most recent call last):
            ...
        RuntimeError: the hub does not give a/model: no route. Check the network (and HF_ENDPOINT, HF_HUB_OFFLINE), \
    or use LORA_PROFILE=laptop, which needs no hub.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # datasets raises ValueError for a cache without this data, offline
        raise RuntimeError(
            f"the hub does not give {what}: {error}. Check the network (and HF_ENDPOINT, HF_HUB_OFFLINE), {instead}."
        ) from error
