"""Which profile runs, and that a substitute is always announced."""

from __future__ import annotations

import dataclasses
import http.server
import threading
import types

import pytest
import torch

from lora_ref import assets, profiles
from lora_ref.profiles import LAPTOP, PROFILES, T4, TINY, ProfileError, choose, laptop, t4


@pytest.fixture
def machine(monkeypatch, no_choice):
    """Says what this machine has: ``machine(gpu=True, hub=False, index=True)``."""

    def say(gpu=True, hub=True, index=True):
        monkeypatch.setattr(t4, "gpu_problem", lambda: None if gpu else "no GPU.")
        monkeypatch.setattr(t4, "hub_problem", lambda: None if hub else "no hub.")
        monkeypatch.setattr(laptop, "laptop_problem", lambda: None if index else "no index.")

    say()
    return say


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({}, T4),
        ({"gpu": False}, LAPTOP),
        ({"hub": False}, LAPTOP),
        ({"gpu": False, "hub": False}, LAPTOP),
    ],
)
def test_without_a_choice_the_machine_decides_in_silence(machine, capsys, has, expected):
    machine(**has)
    assert choose() is expected
    assert capsys.readouterr().out == ""


def test_the_argument_goes_before_the_environment(machine, monkeypatch):
    monkeypatch.setenv("LORA_PROFILE", "laptop")
    assert choose() is LAPTOP
    assert choose("tiny") is TINY


@pytest.mark.parametrize(
    ("wanted", "has", "expected", "words"),
    [
        ("t4", {"gpu": False}, LAPTOP, ["'laptop' serves instead of 't4'", "no GPU."]),
        ("t4", {"hub": False}, LAPTOP, ["'laptop' serves instead of 't4'", "no hub."]),
        ("t4", {"hub": False, "index": False}, TINY, ["'tiny' serves instead of 't4'", "no hub.", "no index."]),
        ("laptop", {"index": False}, TINY, ["'tiny' serves instead of 'laptop'", "no index."]),
        (None, {"gpu": False, "index": False}, TINY, ["'tiny' serves instead of 'laptop'", "no index."]),
    ],
)
def test_a_substitute_says_that_it_is_one_and_why(machine, capsys, wanted, has, expected, words):
    machine(**has)
    assert choose(wanted) is expected
    out = capsys.readouterr().out
    assert all(word in out for word in words), out


@pytest.mark.parametrize(
    ("wanted", "has"), [("t4", {"gpu": False}), ("t4", {"hub": False}), ("laptop", {"index": False})]
)
def test_strict_raises_instead(machine, wanted, has):
    machine(**has)
    with pytest.raises(ProfileError, match=rf"'{wanted}' is not available: no"):
        choose(wanted, strict=True)


@pytest.mark.parametrize(("name", "nearest"), [("laptob", "laptop"), ("T4", "t4"), ("tinny", "tiny")])
def test_an_unknown_profile_names_the_nearest(machine, monkeypatch, name, nearest):
    with pytest.raises(ValueError, match=rf"no profile '{name}'; nearest: '{nearest}'"):
        choose(name)
    monkeypatch.setenv("LORA_PROFILE", name)
    with pytest.raises(ValueError, match=nearest):
        choose()


def test_a_profile_is_changed_in_a_copy_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LAPTOP.epochs = 5
    with pytest.raises(TypeError):
        LAPTOP.learning_rates["lora"] = 1.0
    assert dataclasses.replace(LAPTOP, epochs=5).epochs == 5
    assert len({LAPTOP, TINY, T4}) == 3


def test_the_t4_profile_is_what_the_course_says():
    assert (T4.train_size, T4.epochs, T4.fp16) == (10_000, 2, True)
    assert not LAPTOP.fp16


class _Hub(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self):
        self.send_response(self.status if self.path == f"/api/models/{profiles.HUB_MODEL}" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, no_choice):
    """A hub on this machine, where HF_ENDPOINT points."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_where_hf_endpoint_says(hub, monkeypatch):
    assert profiles.hub_problem() is None
    monkeypatch.setattr(_Hub, "status", 503)
    assert "answers 503" in profiles.hub_problem()


def test_an_offline_setting_counts_as_no_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in profiles.hub_problem()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert profiles.hub_problem() is None


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "not an address"])
def test_a_hub_that_does_not_answer(monkeypatch, no_choice, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    problem = profiles.hub_problem(timeout=1)
    assert "does not answer" in problem
    assert "HF_ENDPOINT" in problem


def test_gpu_problem_follows_torch(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert profiles.gpu_problem() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA GPU" in profiles.gpu_problem()


def test_laptop_problem_is_what_the_assets_say(monkeypatch):
    def fails(**_):
        raise assets.AssetError("no index; do this.")

    monkeypatch.setattr(assets, "fetch_all", fails)
    assert profiles.laptop_problem() == "no index; do this."
    monkeypatch.setattr(assets, "fetch_all", lambda **_: {})
    assert profiles.laptop_problem() is None


@pytest.mark.parametrize(("name", "minutes"), [("tiny", "half a minute"), ("laptop", "3.5 minutes on two CPU cores")])
def test_a_notebook_says_what_it_runs_and_how_long(machine, monkeypatch, capsys, name, minutes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LORA_PROFILE", name)
    assert profiles.announce(4) is profiles.PROFILES[name]
    device, runs, takes = capsys.readouterr().out.splitlines()
    assert device.startswith(f"torch {torch.__version__}, no GPU, ")
    assert runs.startswith(f"profile {name}: {profiles.PROFILES[name].base_model}; ")
    assert takes.startswith("running all cells of stage 4 takes about ")
    assert minutes in takes or name == "tiny"


def test_a_gpu_is_named(machine, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = types.SimpleNamespace(name="Tesla T4", total_memory=15_828_320_256)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    assert profiles.announce(1) is T4
    out = capsys.readouterr().out
    assert "GPU Tesla T4 with 15 GiB" in out
    assert "profile t4: roberta-base" in out
    assert "on a T4, by estimate" in out


def test_every_profile_says_minutes_for_every_stage():
    assert {len(profile.notebook_minutes) for profile in PROFILES.values()} == {5}
