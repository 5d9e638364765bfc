# make atlas and make test do everything on a fresh machine: they make the environment (.venv) first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup browser test check campaign atlas lab book docs results notebooks lint clean
.DELETE_ON_ERROR:

help:
	@echo "make atlas    the concept-by-layer atlas of the tiny model, in atlas/index.html"
	@echo "make test     the tests and the notebooks"
	@echo "make lab      JupyterLab on notebooks/"
	@echo "make book     the notebooks, run and as pages with sound, in book/index.html"
	@echo "make docs     the documentation site, with the book, in site/index.html"
	@echo "make check    lint, types and the tests that matter most, in two to three minutes"
	@echo "make campaign  what may break next: kills, odd inputs, hostile pages, threads; half an hour"
	@echo "make setup    the environment alone, in .venv"
	@echo "make results  rebuild what depends on the tiny model's weights"
	@echo "make notebooks  the ipynb files, from their percent scripts"
	@echo "make lint     ruff, mypy and import-linter"
	@echo "make clean    remove caches and build folders (not .venv, atlas/ or runs/)"

setup: .venv/.ready

# The stamp goes first and comes back last, so an installation that failed halfway is never taken for a finished one.
.venv/.ready: pyproject.toml constraints.txt audioscope/fix_torchaudio.py
	@rm -f $@
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or later, or run make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "audioscope needs Python 3.11 or later, but $(PYTHON) is $$($(PYTHON) -V 2>&1): run make PYTHON=python3.11 (or later)" >&2; exit 1; }; \
		echo "Making .venv with $$($(PYTHON) -V)"; \
		$(PYTHON) -m venv .venv; \
	fi
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "audioscope needs Python 3.11 or later, but .venv has $$($(BIN)/python -V 2>&1): remove .venv and run make again" >&2; exit 1; }
	$(BIN)/python -m pip install -c constraints.txt -e '.[lab,pages,test]'
	$(BIN)/python -m audioscope.fix_torchaudio
	@touch $@

# The atlas page is tested in a browser. Where it can be, Debian's Chromium is installed; where it cannot, that is said, and in CI it is an error.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name >/dev/null && exit 0; done; \
	echo "Installing Chromium, in which the tests open the atlas page"; \
	SUDO=; [ "$$(id -u)" = 0 ] || SUDO="sudo -n"; \
	if command -v apt-get >/dev/null && $$SUDO apt-get update -qq && $$SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; then exit 0; fi; \
	echo "*** NO BROWSER: the atlas page will not be tested. Install Chromium and run make test again. ***" >&2; \
	[ -z "$$CI" ]

# Two processes of one thread each are faster than one of two threads, also on a busy machine. Sweeps start no workers beside them, except
# where a test asks for some.
PYTEST := OMP_NUM_THREADS=1 LOKY_MAX_CPU_COUNT=1 $(BIN)/python -m pytest -n 2 --dist worksteal
# nbmake runs the notebooks first, since they take longest, with cells added that answer the exercises. A cell has an hour: only one
# that hangs comes to it.
test: setup browser
	$(BIN)/python tests/helpers/answered.py runs/notebooks
	$(PYTEST) --nbmake --nbmake-timeout=3600 --durations=60 runs/notebooks tests

# What a push must pass, in two to three minutes: those marked `slow`, or named in tests/slow.txt, are left to `make test`.
check: lint
	$(PYTEST) -p no:nbmake tests -m "not slow"

# What may break next, at length: killed work, odd inputs, hostile pages, many threads. About half an hour on two cores.
campaign: setup browser
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaigns/kill.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaigns/threads.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaigns/fuzz.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/campaigns/pages.py

atlas: setup
	$(BIN)/audioscope atlas --out atlas

# In a container one is root, for whom JupyterLab asks for the flag.
lab: setup
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u 2>/dev/null)),--allow-root) notebooks

book: setup
	$(BIN)/audioscope book --out book

# The site takes the book in, which is made again only if a notebook is newer.
book/index.html: $(wildcard notebooks/*.ipynb) | setup
	$(BIN)/audioscope book --out book

docs: setup book/index.html
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -d .sphinx docs site
	@echo "site/index.html opens in any browser, offline"

results: setup
	$(BIN)/python tools/make_results.py

# The percent scripts are the source; the notebooks are made from them, without outputs.
notebooks: setup
	$(BIN)/jupytext --update --to ipynb notebooks/*.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find audioscope tests notebooks benchmarks -name __pycache__ -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +
