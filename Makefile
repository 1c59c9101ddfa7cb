# lab: open the course · run: train and report · test: everything · unit: what is quick · bench: speed beside peers
# results: the study that the course reports · slides: for a class · site: the course as web pages
# Each does its own set-up, once. Another Python: make lab PYTHON=python3.12
# Linux without an NVIDIA GPU: make setup CPU=1 leaves out gigabytes of CUDA packages
# On a machine without a screen: make lab JUPYTER_ARGS=--no-browser, and ssh -L 8888:localhost:8888 MACHINE on your own

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# With CPU=1 uv chooses the CPU build of PyTorch. Later calls, with or without CPU=1, remember it by the file .venv/cpu.
CPU ?= $(wildcard .venv/cpu)
CUDA = ^(nvidia-|cuda-|triton)
export JUPYTER_PLATFORM_DIRS := 1
# On Linux, glibc then asks for huge pages of memory, with which training can be faster. `make bench` measures by how much.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: lab run test unit slow notebooks-test browser-test results pages bench setup tools notebooks diagrams slides site scripts requirements lint

setup: .venv/ready

.venv/ready: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "LCL needs Python 3.11, 3.12 or 3.13; install one, or name it: make setup PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing the pinned packages into .venv: some gigabytes, once; this takes some minutes."
ifeq ($(filter 1 .venv/cpu,$(CPU)),)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
else
	$(BIN)/python -m pip install --quiet uv
	grep -Ev '$(CUDA)' requirements.txt | $(BIN)/uv pip install --quiet --python .venv --torch-backend cpu --requirement -
	@touch .venv/cpu
endif
	@touch $@

lab: setup
	$(BIN)/jupyter lab --ServerApp.root_dir=. $(JUPYTER_ARGS) notebooks/00_preflight.ipynb

run: setup
	$(BIN)/lcl train --profile laptop

test: setup tools lint unit slow notebooks-test browser-test

# Two small baselines that only tests and benchmarks need; without them their tests are skipped.
tools: setup
	-$(BIN)/python -m pip install --quiet --no-deps --requirement tools/peers.txt

lint: setup
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/prose.py

unit: setup
	$(BIN)/pytest -p no:nbmake -n 2 --dist loadfile --durations 5 -m "not slow" --ignore tests/solutions --ignore tests/browser tests

slow: setup
	$(BIN)/pytest -p no:nbmake -n 2 --dist loadfile --durations 5 -m slow --ignore tests/solutions --ignore tests/browser tests

notebooks-test: setup
	LCL_PROFILE=smoke OMP_NUM_THREADS=1 $(BIN)/pytest --nbmake --nbmake-kernel=python3 --nbmake-timeout=300 -n 2 --dist worksteal notebooks
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal tests/solutions

# Every notebook in JupyterLab in a real browser; skipped where none is installed. Pictures go to build/browser.
browser-test: setup
	$(BIN)/pytest -p no:nbmake -n 2 --dist worksteal -rs tests/browser

# Train what is missing of the study (a whole one takes more than a day on two cores), then make the pages and figures of its results.
# Trainings side by side, a core each; another number: make results WORKERS=4
WORKERS ?= 2
results: setup
	$(BIN)/python tools/study.py --workers $(WORKERS)
	$(MAKE) pages
	$(BIN)/python tools/refresh_notebooks.py --results

# Make the pages and figures from the saved runs alone; after a further run of the plan (docs/plan.md), for example.
pages: setup
	PYTHONPATH=. $(BIN)/python tools/pages.py

# About half an hour, which nothing else should disturb; on the CPU. `make bench OUT=results/bench.json` replaces the course's own figures.
OUT ?= build/bench.json
bench: setup tools
	CUDA_VISIBLE_DEVICES=-1 $(BIN)/python -m benchmarks.run --out $(OUT)

# For those who change the course: run every notebook in the laptop profile and keep clean outputs, and what they learn.
notebooks: setup
	$(BIN)/python tools/refresh_notebooks.py --keep

# Draw the diagrams of the chapters, to notebooks/diagrams.
diagrams: setup
	PYTHONPATH=tools $(BIN)/python -m diagrams

# A page of slides a chapter, from the notebooks as they are, to build/slides.
slides: setup
	$(BIN)/python tools/slides.py

# The course as a static site, to build/site: open its index.html. The first build makes the interactive figures, some minutes.
# With buttons for Colab and Binder: make site REPOSITORY=OWNER/NAME
# With npm it has a page on which one tries a model: npm fetches ONNX Runtime Web for it.
site: setup
	PYTHONPATH=tools $(BIN)/python -m website --repository "$(REPOSITORY)"

# Lint, types and tests of the figures' scripts; needs node 20 or newer, and fetches ESLint and TypeScript.
scripts:
	cd tools/exhibits && npm ci --no-audit --no-fund && npm run all

# Write the exact lock; needs `uv`. Pins that still fit stay; to move all of them: make requirements UPGRADE=--upgrade
COMPILE = uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header --no-annotate $(UPGRADE)
requirements:
	grep == requirements.txt > requirements.new
	$(COMPILE) --all-extras --output-file requirements.new pyproject.toml > /dev/null
	{ echo "# made by 'make requirements' from pyproject.toml, for Linux, macOS and Windows, Python 3.11 to 3.13"; \
	  echo "-e .[scenes,teachers,shards,onnx,course,bench,dev]"; cat requirements.new; } > requirements.txt
	rm requirements.new
