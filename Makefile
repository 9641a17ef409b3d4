# One line of help a target: `make`.
SHELL := /bin/bash
PYTHON := .venv$(if $(LOWEST),-lowest)/bin/python
PROFILE ?= quick
export LOWEST
unexport PYTHONDONTWRITEBYTECODE  # containers set it to stay small; each of many short processes would compile PyTorch anew

.PHONY: help environment run run-grade run-report test full figures report grade gradescope readme site bench check status colab clean

help:  ## this list
	@awk -F':.*## *' '/^[a-z]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

environment:  ## make .venv with everything the suite needs
	@bash scripts/environment.sh

run: environment  ## every notebook at the quick profile, figures, grade and PDF, all under build/quick/
	@$(PYTHON) -m helpers --profile $(PROFILE) build
	@$(MAKE) --no-print-directory -j2 run-grade run-report

run-grade:
	@$(PYTHON) -m helpers --profile $(PROFILE) grade || [ $$? = 1 ]  # 1: not everything passes, as small runs do not

run-report:
	@if bash scripts/latex.sh; then $(PYTHON) -m helpers --profile $(PROFILE) report; fi

test: environment  ## ruff and pytest, as CI runs them; LOWEST=1: with the lowest versions that the suite allows
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

full: environment  ## every run at the sheets' budgets (hours on a CPU; resumable; MINUTES=90 stops after so many), then the notebooks
	@$(PYTHON) -m helpers full $(if $(MINUTES),--minutes $(MINUTES)) $(if $(MORE),--more)

figures: environment  ## figures and notebooks from the records; nothing that is recorded is trained again
	@$(PYTHON) -m helpers --profile full build

report: environment  ## report.pdf from results/ and figures/, nothing trained
	@bash scripts/latex.sh && $(PYTHON) -m helpers --profile full report

grade: environment  ## mark the saved results, figures and notebooks
	@$(PYTHON) -m helpers --profile full grade

gradescope: environment  ## pack the grade as an autograder, build/autograder.zip; SHEET=mila20 marks that, RUN=2_vae_mnist runs it
	@$(PYTHON) -m helpers gradescope $(if $(SHEET),--sheet $(SHEET)) $(if $(RUN),--run $(RUN))

readme: environment  ## write the tables of README.md from results/
	@$(PYTHON) -m helpers readme

site: environment  ## pages to look at, build/site/index.html, from records, figures and notebooks
	@$(PYTHON) -m helpers --profile full site

bench: environment  ## speed side by side with the peers, into benchmarks/results/
	@mkdir -p build && $(PYTHON) -m pip freeze -q > build/installed.txt
	@$(PYTHON) -m pip --disable-pip-version-check -q install -r requirements-bench.txt -c build/installed.txt
	@$(PYTHON) -m benchmarks

check: environment  ## tell fresh notebooks from stale, hollow and failed ones
	@$(PYTHON) -m helpers --profile full check

status: environment  ## every run: recorded, partial, stale or missing, with its numbers
	@$(PYTHON) -m helpers --profile full status

colab: environment  ## is the repository's address the same everywhere; REPO=owner/name writes it into badges and first cells
	@$(PYTHON) -m helpers colab $(if $(filter command,$(origin REPO)),--repository='$(REPO)')

clean:  ## remove build/ (checkpoints too)
	rm -rf build
