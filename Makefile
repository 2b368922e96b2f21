# Every target makes what it needs: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO ?= quail-demo

.PHONY: demo test check format first-paint bench test-slow test-real-data test-real-model test-cuda test-terminal test-browser test-backends fuzz screenshots gallery validity docs clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Quail needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The demo's audit fails by design, with exit code 1: exactly that is success here.
demo: $(INSTALLED)
	$(BIN)/quail demo $(DEMO); code=$$?; test $$code -eq 1 || { echo "the demo ended with $$code instead of 1"; exit 1; }

# A test process for each core: one thread each, and none that spins while it waits for a turn.
test: export OMP_NUM_THREADS = 1
test: export OMP_WAIT_POLICY = PASSIVE
test: $(INSTALLED)
	$(BIN)/pytest --numprocesses auto --dist worksteal

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The app's first screen within six times that of a bare Textual app.
first-paint: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.first_paint

bench: $(INSTALLED)
	$(BIN)/pytest tests/benchmarks -m 'not real_model and not cuda' -s --timeout 1800

test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow --timeout 1800

test-real-data: $(INSTALLED)
	$(BIN)/pytest -m real_data --timeout 1800

# $QUAIL_SMOLLM2 names SmolLM2-135M as a folder: docs/experiments/smollm2_folder.py makes one.
test-real-model: $(INSTALLED)
	$(BIN)/pytest -m real_model --timeout 1800 -s

test-cuda: $(INSTALLED)
	$(BIN)/pytest -m cuda

# Needs tmux.
test-terminal: $(INSTALLED)
	$(BIN)/pytest -m terminal

# Ten thousand hostile files for every reader.
fuzz: $(INSTALLED)
	$(BIN)/pytest -m fuzz -s

# Needs Chromium on this machine, of the package chromium on Debian, and npm to get axe-core.
test-browser: $(INSTALLED)
	if command -v npm > /dev/null; then npm install --prefix tests/reports/axe --no-audit --no-fund --no-package-lock --silent; fi
	$(BIN)/pytest -m browser

# Builds and audits quail-demo first where that has not been done.
screenshots: $(INSTALLED)
	$(BIN)/python docs/screenshots.py

# One real report in every format, from quail-demo.
gallery: $(INSTALLED)
	$(BIN)/python docs/gallery.py

# The page on validity: checkpoints are made, audited and held to the truth. It resumes from build/validity.
validity: export OMP_NUM_THREADS = 1
validity: $(INSTALLED)
	$(BIN)/python -m tests.validity

# The site, in build/site. A warning fails it, which --quiet would hide from it too; nothing is fetched.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(INSTALLED)
	$(BIN)/python -m mkdocs build --strict -f docs/book/mkdocs.yml

# GPTQModel and auto-gptq need other versions of torch and transformers than the rest, and than each other.
BACKEND_TESTS := tests/engine/schemes/backends/test_real_backends.py \
	tests/engine/checkpoints/model/test_transformers_rules.py tests/train/carry/test_compensation_against_gptqmodel.py
TEST_TOOLS := pytest pytest-timeout hypothesis pytest-asyncio

.venv-gptqmodel/.installed: pyproject.toml constraints-gptqmodel.txt
	$(PYTHON) -m venv .venv-gptqmodel
	.venv-gptqmodel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-gptqmodel.txt torch torchvision setuptools wheel ninja packaging numpy pybind11
	.venv-gptqmodel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-gptqmodel.txt --no-build-isolation hatchling editables
	.venv-gptqmodel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-gptqmodel.txt --no-build-isolation -e '.[gptq]' $(TEST_TOOLS)
	touch $@

.venv-auto-gptq/.installed: pyproject.toml constraints-auto-gptq.txt
	$(PYTHON) -m venv .venv-auto-gptq
	.venv-auto-gptq/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-auto-gptq.txt -e '.[auto-gptq]' $(TEST_TOOLS)
	touch $@

# The real backends on a CPU. An environment that cannot be made is said, and is no failure of the tests.
test-backends:
	@for backend in gptqmodel auto-gptq; do \
		if $(MAKE) .venv-$$backend/.installed; then \
			.venv-$$backend/bin/python -m pytest -m backend $(BACKEND_TESTS) || exit 1; \
		else rm -rf .venv-$$backend; echo "NOT TESTED: $$backend; its environment cannot be made here" >&2; fi; \
	done

clean:
	rm -rf $(VENV) .venv-gptqmodel .venv-auto-gptq build dist .mypy_cache .pytest_cache .ruff_cache
