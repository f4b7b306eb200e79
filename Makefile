# Everything a newcomer, a colleague or CI types. `make help` lists it. Each step leaves a stamp, so that a second run
# takes seconds; no step needs anything installed by hand but Python, Rust and a C compiler.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Where the environment lives; several checkouts may share one: `make core VENV=../other/.venv`.
VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PYTHON ?= $(shell tools/prerequisites python 2>/dev/null)
CARGO_MANIFEST := sfu/core/Cargo.toml
RUST_SOURCES := $(shell find sfu/core \( -name target -o -name fuzz -o -name tests -o -name benches \) -prune -o -type f \( -name '*.rs' -o -name 'Cargo.*' \) -print)
CORE := sfu/_core.abi3.so
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes

# The build directory stays in the tree, whatever the caller's shell says, so that `make clean` is whole.
unexport CARGO_TARGET_DIR

.PHONY: help setup serve test lint format core bench bench-full quality quality-real fuzz docs lock clean prerequisites

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMPS)/package ## Make the environment and the release build; leaves .venv/bin/callyard.

serve: setup ## Set up and start a development server with a link to the call page.
	@exec $(BIN)/callyard serve --dev

prerequisites:
	@tools/prerequisites

$(STAMPS)/venv: tools/prerequisites | prerequisites
	@echo "== environment"
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/runtime: $(STAMPS)/venv requirements/runtime.txt requirements/build.txt
	@echo "== packages"
	@$(PIP_INSTALL) -r requirements/build.txt -r requirements/runtime.txt
	@touch $@

$(STAMPS)/package: $(STAMPS)/runtime pyproject.toml $(RUST_SOURCES)
	@echo "== media core, release build (the first one takes minutes)"
	@. $(BIN)/activate && PIP_QUIET=1 maturin develop --release --locked --quiet
	@touch $@

$(STAMPS)/test: $(STAMPS)/runtime requirements/test.txt
	@echo "== test packages"
	@$(PIP_INSTALL) -r requirements/test.txt
	@touch $@

$(STAMPS)/lint: $(STAMPS)/runtime requirements/lint.txt
	@echo "== lint packages"
	@$(PIP_INSTALL) -r requirements/lint.txt
	@touch $@

core: ## Build the media core for this checkout, unoptimised and quickly.
	@rm -f $(STAMPS)/package
	@cargo build --quiet --locked --manifest-path $(CARGO_MANIFEST) -p callyard-py
	@cp sfu/core/target/debug/lib_core.so $(CORE).new && mv $(CORE).new $(CORE)

test: setup $(STAMPS)/test $(STAMPS)/lint ## Set up what the tests need and run all of them.
	@tools/run_tests

lint: $(STAMPS)/test $(STAMPS)/lint ## Style, types, walls, licences.
	@tools/run_lint

format: $(STAMPS)/lint ## Rewrite sources in the agreed style.
	@$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format --quiet .
	@cargo fmt --manifest-path $(CARGO_MANIFEST) --all

bench: setup $(STAMPS)/test ## Measure CPU per packet, latency and memory beside the synthetic limit.
	@$(BIN)/python -m bench

bench-full: setup $(STAMPS)/test ## All scenarios and servers (hours); writes docs/benchmarks.md, docs/sizing.md, the README.
	@$(BIN)/python -m bench --full --page

quality: $(STAMPS)/test ## Simulate calls over bad links with the real core: a table beside targets, plots (QUALITY=--docs).
	@cargo build --quiet --release --locked --manifest-path $(CARGO_MANIFEST) -p callyard-sim
	@$(BIN)/python -m bench.quality $(QUALITY)

quality-real: setup $(STAMPS)/test ## Calls of real clients over emulated links, beside LiveKit's server; as root (LINKS=--docs).
	@$(BIN)/python -m bench.links $(LINKS)

fuzz: ## Fuzz every parser for some seconds each (FUZZ_SECONDS).
	@bash sfu/core/fuzz/run.sh "$${FUZZ_SECONDS:-60}"

docs: setup ## Regenerate what is written from the settings.
	@$(BIN)/python -m signaling.settings_reference

lock: $(STAMPS)/lint ## Resolve requirements/*.txt anew within pyproject.toml's bounds.
	@tools/lock_requirements

clean: ## Remove everything that was built or installed; what the server has stored (var) stays.
	@rm -rf $(VENV) sfu/core/target sfu/core/fuzz/target $(CORE) dist node_modules tests/e2e/node_modules
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
