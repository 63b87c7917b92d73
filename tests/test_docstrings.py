"""Everything that the package offers is documented with an example; pytest runs the examples (`--doctest-modules`)."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import lora_ref

#: A package that has `__all__` speaks for the modules in it.
PACKAGES = ("checks", "plots", "profiles", "vision")
#: These have an example to read and none to run: they need the network, or download the laptop's assets.
NOT_RUN = {
    "lora_ref.assets.fetch_all",
    "lora_ref.commands.compare",
    "lora_ref.commands.merge",
    "lora_ref.commands.sweep",
    "lora_ref.commands.train",
    "lora_ref.data.sst2",
    "lora_ref.doctor.examine",
    "lora_ref.doctor.main",
    "lora_ref.images.cifar10",
    "lora_ref.images.hub_digits",
    "lora_ref.images.laptop_digits",
    "lora_ref.info.doctor",
    "lora_ref.info.info",
    "lora_ref.models.from_hub_with_new_head",
    "lora_ref.models.laptop_encoder",
    "lora_ref.models.laptop_tokenizer",
    "lora_ref.models.roberta_base",
    "lora_ref.models.roberta_tokenizer",
    "lora_ref.profiles.laptop.laptop_problem",
    "lora_ref.vision.vit.photographs",
    "lora_ref.vision.vit.vit_base",
}


def offered() -> dict[str, object]:
    """Functions and classes by full name: each module's `__all__`, or else what is defined in it without underscore."""
    found = {}
    for info in pkgutil.iter_modules(lora_ref.__path__):
        module = importlib.import_module(f"lora_ref.{info.name}")
        assert info.ispkg == (info.name in PACKAGES)
        for name in getattr(module, "__all__", vars(module)):
            thing = getattr(module, name)
            home = getattr(thing, "__module__", "")
            own = home == module.__name__ or (info.ispkg and str(home).startswith(module.__name__))
            if own and not name.startswith("_") and (inspect.isfunction(thing) or inspect.isclass(thing)):
                found[f"{home}.{thing.__name__}"] = thing
    return found


OFFERED = offered()


def examples(thing: object) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.getdoc(thing) or "")


def test_the_package_offers_what_its_front_door_names():
    names = {name.rpartition(".")[2] for name in OFFERED}
    assert set(lora_ref.__all__) <= names
    assert len(OFFERED) > 140


@pytest.mark.parametrize("name", sorted(OFFERED))
def test_what_is_offered_has_an_example(name):
    thing = OFFERED[name]
    text, shown = inspect.getdoc(thing) or "", examples(thing)
    if name in NOT_RUN:
        assert "Example::\n\n    " in text
        assert not shown
        return
    assert "Example:\n    >>>" in text, f"{name} has no example"
    assert not any(example.options.get(doctest.SKIP) for example in shown), f"{name}: run it, or say so in NOT_RUN"
    assert any(example.want for example in shown), f"{name}'s example shows no value"


@pytest.mark.parametrize("name", sorted(OFFERED))
def test_what_is_offered_has_a_summary_that_fits_a_line(name):
    first = inspect.getdoc(OFFERED[name]).split("\n")[0]
    assert 10 < len(first) <= 120
