# The commands of the project; each installs what it needs (Debian packages only as root).
#
#   make demo     the whole story with WildFly on two lab hosts; leaves build/demo.json
#   make test     lint, types, layers and every test, JOBS=4 files at a time
#   make lint     the checks that need no lab
#   make soak     kills daemon and hosts KILLS=200 times under constant wishes; build/soak.json
#   make faults   every fault on the lab, with the table of what it ends in; build/faults.json
#   make fleet    deciding for a simulated fleet of up to 200 hosts; leaves build/fleet.json
#   make bench    every way to start WildFly and Tomcat, in turn; leaves build/bench.json and .svg
#   make lab      a lab of two hosts, left running
#   make clean    labs, build output and the virtual environment; the lab's cache stays
#   make lock     renew the pinned dependencies

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
LOCK := .ci/requirements.lock
PYTEST_ARGS ?=
# Files of tests that run at a time: they wait more than they compute.
JOBS ?= 4
KILLS ?= 200
SOAK_ARGS ?=
BENCH_ARGS ?=
SWEEP ?=
RUN_TESTS = PATH="$(CURDIR)/$(BIN):$(CURDIR)/$(VENV)/prometheus/usr/bin:$(CURDIR)/$(VENV)/haproxy/bin:$(CURDIR)/$(VENV)/nginx/bin:$(CURDIR)/$(VENV)/python3.9/usr/bin:$$PATH" \
  $(BIN)/pytest

.PHONY: help setup demo test lint lab soak faults fleet bench clean lock

help:
	@sed -n 's/^#   //p' Makefile

$(VENV)/.ready: pyproject.toml $(LOCK) .ci/setup
	.ci/setup $(VENV) $(LOCK)
	@touch $@

setup: $(VENV)/.ready

demo: setup
	$(BIN)/poold demo --output build/demo.json

lab: setup
	$(BIN)/poold lab up --hosts 2

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	@mkdir -p build
	.ci/setup --tools $(VENV)
	$(RUN_TESTS) -n $(JOBS) --faults build/faults.json $(PYTEST_ARGS)

soak: setup
	$(BIN)/python tests/faults/soak.py --kills $(KILLS) --output build/soak.json $(SOAK_ARGS)

faults: setup
	@mkdir -p build
	.ci/setup --tools $(VENV)
	SWEEP=$(SWEEP) $(RUN_TESTS) -n $(JOBS) -m fault --faults build/faults.json $(PYTEST_ARGS)

fleet: setup
	$(BIN)/python tests/faults/fleet.py --output build/fleet.json

bench: setup
	$(BIN)/python tests/bench.py --output build/bench.json $(BENCH_ARGS)

clean:
	-test -x $(BIN)/poold && $(BIN)/poold lab down --all
	rm -rf build dist $(VENV)

# The lock names no index: the machine's own pip configuration decides where packages come from.
lock:
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
	  --group dev pyproject.toml --output-file $(LOCK)
