# `make run` and `make test` are the only two commands that anyone needs. Both build what they need, once.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
JOBS ?= 3
ARGS ?=

BIN := $(VENV)/bin
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

.PHONY: help run test test-all test-zoo test-slurm test-ssh test-skypilot test-agents test-services test-trust check format bench clean

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

run: $(VENV)/.run-ready ## run a five-minute study of the bundled workspace (ARGS="--max-time 10m ...")
	@$(BIN)/arf run $(ARGS)

test: $(VENV)/.test-ready ## check the code and run all tests but the slow ones (ARGS="-k name", JOBS=3)
	@$(MAKE) check
	@$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)
	@$(BIN)/pytest -m slurm_ci tests/slurm $(ARGS) || [ $$? = 5 ]  # one after the other; 5: none is selected
	@$(BIN)/pytest -m ssh_ci tests/ssh $(ARGS) || [ $$? = 5 ]

test-all: $(VENV)/.test-ready ## run all tests, the slow ones too
	@$(BIN)/pytest -m '' $(ARGS)

test-zoo: $(VENV)/.test-ready ## run a study on each kind of script in tests/zoo
	@$(BIN)/pytest -m '' tests/zoo $(ARGS)

test-slurm: $(VENV)/.test-ready ## run the tests on a real Slurm (needs its Debian packages and root: .ci/install-slurm --all)
	@$(BIN)/pytest -m 'slurm or slurm_ci' tests/slurm $(ARGS)

test-ssh: $(VENV)/.test-ready ## run the tests on real SSH servers on the loopback (needs Debian's OpenSSH server and root: .ci/install-ssh)
	@$(BIN)/pytest -m 'ssh or ssh_ci' tests/ssh $(ARGS)

test-skypilot: $(VENV)-skypilot/.ready ## run the tests on a real SkyPilot over a real Slurm (needs root; .ci/install-slurm --all)
	@$(VENV)-skypilot/bin/pytest -m skypilot tests/skypilot $(ARGS)

test-agents: $(VENV)-agents/.ready ## run the tests on the real Claude Code and Codex, against a local stand-in for their services
	@$(VENV)-agents/bin/pytest -m agents tests/agents $(ARGS)

test-services: $(VENV)/.test-ready ## run a small study with each real service whose key is set (costs some cents)
	@$(BIN)/pytest -m services tests/services $(ARGS)

test-trust: $(VENV)/.test-ready ## try a catalogue of tricks and honest changes, and print which were kept
	@$(BIN)/pytest -s -q -m '' tests/trust $(ARGS)

check: $(VENV)/.test-ready ## lint, format, types and import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.test-ready ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.test-ready ## run the benchmarks; each prints ratios against something in the same run
	@$(BIN)/python tests/benchmarks/run.py $(ARGS)

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) $(VENV)-skypilot $(VENV)-agents build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/.made:
	@command -v git >/dev/null || { echo "git is needed: install it and try again"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run-ready: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing arf and what the bundled workspace needs (PyTorch is large: this may take minutes, once)"
	@$(BIN)/pip install $(PIP_ARGS) --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[trainer,report]' \
	  | grep --line-buffered -E '^(Collecting|Downloading|Installing|Successfully)' || true
	@$(BIN)/python -c 'import arf, torch' && touch $@

$(VENV)/.test-ready: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing arf and what its tests need (PyTorch is large: this may take minutes, once)"
	@$(BIN)/pip install $(PIP_ARGS) --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]' \
	  | grep --line-buffered -E '^(Collecting|Downloading|Installing|Successfully)' || true
	@$(BIN)/python -c 'import arf, torch, pytest' && touch $@
	@touch $(VENV)/.run-ready

$(VENV)-skypilot/.ready: pyproject.toml
	@echo "installing arf and SkyPilot into an environment of their own (100 packages, 500 MB)"
	@$(PYTHON) -m venv $(VENV)-skypilot
	@$(VENV)-skypilot/bin/pip install -q $(PIP_ARGS) --disable-pip-version-check -e . 'skypilot[slurm]>=0.14' uv 'pytest>=8.3' 'pytest-timeout>=2.3'
	@touch $@

# Both wheels hold the program itself, so neither npm nor Node is needed.
$(VENV)-agents/.ready: pyproject.toml
	@echo "installing arf, Claude Code and Codex into an environment of their own (900 MB)"
	@$(PYTHON) -m venv $(VENV)-agents
	@$(VENV)-agents/bin/pip install -q $(PIP_ARGS) --disable-pip-version-check -e '.[mcp]' \
	  claude-agent-sdk==0.2.187 openai-codex-cli-bin==0.163.0 'llmock>=0.2.2' 'pytest>=8.3' 'pytest-timeout>=2.3'
	@touch $@
