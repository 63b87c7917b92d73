# Every target works alone on a fresh clone of a machine that has Python 3.10 or newer and make.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
PROFILE ?= tiny

.PHONY: help setup system demo build test test-all test-min test-newest lint bench release site clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

# $(call install,environment,constraints): torch and setuptools first, the first so that nothing resolves to a larger
# build, the second to build the package itself. pip says hundreds of lines, which are shown if it fails.
define install
@echo "pip: everything into $(1); this takes some minutes"
@{ $(1)/bin/python -m pip install --disable-pip-version-check --progress-bar off -c $(2) torch setuptools && \
	$(1)/bin/python -m pip install --disable-pip-version-check --progress-bar off -c $(2) --no-build-isolation -e ".[dev]"; \
	} > $(1)/pip.log 2>&1 || { cat $(1)/pip.log >&2; exit 1; }
endef

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -m autograder.system venv
	$(PYTHON) -m venv $(VENV)
	$(call install,$(VENV),constraints.txt)
	touch $(READY)

setup: $(READY)  ## .venv with everything in it

system:  ## the programs that pip doesn't bring, bubblewrap and Chromium: installed with apt-get where that may be done
	@$(PYTHON) -m autograder.system

demo: system setup  ## build, run the worked solutions on the real model, grade a sample class
	$(PY) -m lora_ref.assets encoder reviews mnist
	$(PY) -m autograder demo

build: setup  ## make the notebooks from the masters
	$(PY) -m autograder build

# Tests run beside each other, and demo beside whatever else the machine does: there, threads that spin while they wait cost several times the work itself.
demo test test-all test-min test-newest: export OMP_WAIT_POLICY ?= PASSIVE

test: system setup  ## the test suite
	$(PY) -m pytest -n auto

test-all: system setup  ## the test suite with the slow tests
	$(PY) -m pytest -m "slow or not slow" -n auto

lint: setup  ## style, formatting, types, and whether the notebooks are what the masters make
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy lora_ref autograder
	$(PY) -m autograder build --check

bench: setup  ## each claim about speed and memory, both sides in one run
	$(PY) -m lora_ref.assets encoder reviews mnist
	$(PY) -m benchmarks

release: setup  ## the students' bundle
	$(PY) -m autograder release

site: setup  ## the course's site in build/site, executed on the tiny profile (PROFILE=laptop: the published one)
	$(if $(filter laptop,$(PROFILE)),$(PY) -m lora_ref.assets encoder reviews mnist)
	LORA_PROFILE=$(PROFILE) $(PY) -m sphinx -q -W --keep-going -b html docs build/site
	@echo "open build/site/index.html"

# torch stays what constraints.txt pins: another release would come with several GB of CUDA libraries.
test-min: system  ## the test suite on the oldest releases inside pyproject.toml's bounds (an environment of its own; Python 3.10 or 3.11)
	@$(PYTHON) -m autograder.system venv
	$(PYTHON) -m venv .venv-min
	sed -nE 's/^ *"([a-z0-9-]+)>=([0-9.]+).*/\1==\2/p' pyproject.toml | grep -v '^torch==' > .venv-min/constraints.txt
	grep '^torch==' constraints.txt >> .venv-min/constraints.txt
	$(call suite,.venv-min)

test-newest: system  ## the test suite on the newest releases inside pyproject.toml's bounds (an environment of its own)
	@$(PYTHON) -m autograder.system venv
	$(PYTHON) -m venv .venv-newest
	grep '^torch==' constraints.txt > .venv-newest/constraints.txt
	$(call suite,.venv-newest)

# test_project.py is left out: it says that what is installed is what constraints.txt pins
define suite
$(call install,$(1),$(1)/constraints.txt)
$(1)/bin/python -m pytest -n auto --ignore tests/test_project.py
endef

clean:  ## what the other targets made, but for the environment
	rm -rf build dist docs/stages autograded feedback submitted gradebook.db *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
