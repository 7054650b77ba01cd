# Every target works alone on a fresh clone: Python 3.11 or newer, git and make are all it needs.
# `.venv` is built by the first target that needs it, and brought up to date again only when
# pyproject.toml or constraints.txt changed. A stamp is written last, so an interrupted install
# leaves none and the next make resumes.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.installed-base
DEV := $(VENV)/.installed-dev
SERVE := $(VENV)/.installed-serve
DOCS := $(VENV)/.installed-docs
LAYER := $(VENV)-slurm
SLURM := $(LAYER)/.installed
WORKFLOWS := train score reproduce text
# Tests of a file stay together and thus make its models once; the longest come first. `--pdb` turns
# the workers off by itself, ARGS=-n0 does too.
WORKERS := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
INSTALL := -m pip install --quiet --disable-pip-version-check --no-input
PIP := $(BIN)/python $(INSTALL) -c constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo serve reproduce test test-slurm test-install lint types contracts workflows unit docs format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BASE) ## Score the bundled regions and variants with the bundled model
	@$(BIN)/genobird demo --output genobird-demo --force

serve: $(SERVE) ## Open a page to look variants up, in a genome of yours with FASTA=hg19.fa.gz
	@$(BIN)/genobird serve $(if $(FASTA),--fasta $(FASTA))

reproduce: $(DEV) ## Rebuild the paper's tables from ../shared/data; one of them with ARGS=table5
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/snakemake --snakefile workflows/reproduce/Snakefile \
	  --cores 2 --rerun-incomplete --rerun-triggers mtime $(ARGS)

test: lint types contracts workflows unit ## Run every check: the gate of each change

lint: $(DEV) ## ruff: rules and format
	@$(call step,ruff check,$(BIN)/ruff check --quiet .)
	@$(call step,ruff format,$(BIN)/ruff format --check --quiet .)

types: $(DEV) ## mypy --strict
	@$(call step,mypy,$(BIN)/mypy)

contracts: $(DEV) ## import-linter: who may import whom
	@$(call step,import contracts,$(BIN)/lint-imports)

workflows: $(DEV) ## snakefmt and snakemake --lint
	@$(call step,snakefmt,$(BIN)/snakefmt --check workflow workflows)
	@$(foreach name,$(WORKFLOWS),$(call step,snakemake --lint $(name),$(call lint_workflow,$(name))) &&) true

unit: $(DEV) ## pytest; narrow it with ARGS="tests/genome -k fetch"
	@$(BIN)/python -m pytest -q -m "not slurm and not install" $(WORKERS) $(ARGS)

test-slurm: $(SLURM) ## Workflows on a SLURM of one node, started for that; minutes
	@$(LAYER)/bin/python -m pytest -q -m slurm tests/workflows $(ARGS)

test-install: $(DEV) ## Wheel and sdist installed, without extras, for PYTHON; minutes
	@TEST_INSTALL_PYTHON=$(PYTHON) $(BIN)/python -m pytest -q -m install tests/test_packaging.py $(ARGS)

# Links and anchors within the project are checked, addresses elsewhere are not visited.
docs: $(DOCS) ## Build the site, its notebooks run, into docs/_build/html; minutes
	@$(BIN)/sphinx-build -q -E -W --keep-going -c docs . docs/_build/html
	@echo "built docs/_build/html/index.html"

format: $(DEV) ## Rewrite Python and Snakemake files in the house format
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/snakefmt workflow workflows

clean: ## Remove the environment, caches and builds; results stay
	rm -rf $(VENV) $(LAYER) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist docs/_build
	find genobird pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE): pyproject.toml constraints.txt
	@$(create_venv)
	@echo "installing genobird into $(VENV) (minutes the first time)"
	@$(PIP) -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt
	@$(create_venv)
	@echo "installing genobird and its development tools into $(VENV) (minutes the first time)"
	@$(PIP) -e '.[dev]'
	@touch $(BASE) $@

$(SERVE): pyproject.toml constraints.txt
	@$(create_venv)
	@echo "installing genobird and its page into $(VENV) (minutes the first time)"
	@$(PIP) -e '.[serve]'
	@touch $(BASE) $@

$(DOCS): pyproject.toml constraints.txt
	@$(create_venv)
	@echo "installing genobird and what builds its site into $(VENV) (minutes the first time)"
	@$(PIP) -e '.[docs]'
	@touch $(BASE) $@

# SLURM's executor wants a newer numpy than is pinned: both go into a layer over the environment, which stays as it is.
$(SLURM): $(DEV)
	@echo "installing SLURM's executor into $(LAYER)"
	@$(BIN)/python -m venv --clear $(LAYER)
	@below=$$(cd $(VENV)/lib/python*/site-packages && pwd) && cd $(LAYER)/lib/python*/site-packages \
	  && echo "import site; site.addsitedir('$$below')" > below.pth
	@$(LAYER)/bin/python $(INSTALL) -e '.[slurm]'
	@touch $@

# An environment without a working pip is what an interrupted `venv` leaves: it is made anew.
define create_venv
$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
    echo "genobird needs Python 3.11 or newer, and '$(PYTHON)' is missing or older; name one: make PYTHON=python3.12" >&2; \
    exit 1; \
  }; \
  echo "creating $(VENV)"; \
  $(PYTHON) -m venv --clear $(VENV); \
}
endef

# One line for a step that passes; what it wrote, and its exit code, for one that does not.
define step
printf '%-24s' '$(1)'; \
if output=$$($(2) 2>&1 </dev/null); then echo ok; \
else status=$$?; echo failed; printf '%s\n' "$$output"; exit $$status; fi
endef

lint_workflow = $(BIN)/snakemake --lint --snakefile workflows/$(1)/Snakefile \
  --configfile workflows/$(1)/config/test.yaml
