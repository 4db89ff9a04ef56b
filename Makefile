# `make` alone prints what there is. Every target makes its own set-up first.
.DEFAULT_GOAL := help
.PHONY: help setup demo adapt up test test-quick check docs reproduce clean \
	bench-generation bench-embedding bench-students bench-trainer bench-cluster

PYTHON_IN_VENV := .venv/bin/python

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv with everything pinned in constraints.txt (minutes the first time, then nothing to do)
	@for python in "$$PYTHON" python3 python3.11 python3.12 python3.13 python; do \
		if "$$python" -c "" 2>/dev/null; then exec "$$python" scripts/setup.py; fi; \
	done; \
	echo "pairwright setup: there is no Python here. Install Python 3.11, 3.12 or 3.13 (Debian, Ubuntu: apt install python3-venv)." >&2; \
	exit 1

demo: setup ## generate, train and serve once, and print before and after; STUDENT=NAME, STS=DIR adds STS files
	@$(if $(STUDENT),PAIRWRIGHT_STUDENT="$(STUDENT)") $(PYTHON_IN_VENV) -m scripts.demo $(if $(STS),--sts "$(STS)")

adapt: setup ## documents or short texts in, a student better at them out: CORPUS=PATH, and STUDENT, EVAL=DIR, QUERIES=N
	@$(PYTHON_IN_VENV) -m scripts.adapt $(if $(CORPUS),"$(CORPUS)") $(if $(STUDENT),--student "$(STUDENT)") \
		$(if $(EVAL),--eval "$(EVAL)") $(if $(QUERIES),--queries "$(QUERIES)")

up: setup ## start the queue and the three services and keep serving; Ctrl-C ends them
	@$(PYTHON_IN_VENV) -m scripts.up

test: setup ## run all tests, on real parts
	@$(PYTHON_IN_VENV) -m pytest -n 2 --dist loadgroup --durations 40

test-quick: setup ## run the tests that start no engine and take no training, in less than 90 seconds
	@$(PYTHON_IN_VENV) -m pytest -n 2 --dist loadgroup -m "not slow and not vllm"

check: setup ## lint, formatting, types (of JavaScript too, by npm), import boundaries and retired words
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@$(PYTHON_IN_VENV) -m mypy
	@.venv/bin/lint-imports
	@$(PYTHON_IN_VENV) -m scripts.check_words
	@$(PYTHON_IN_VENV) -m scripts.console check

docs: setup ## build the documentation with the API reference into site/
	@$(PYTHON_IN_VENV) -c "import zensical" 2>/dev/null || $(PYTHON_IN_VENV) -m pip install --quiet \
		--disable-pip-version-check -c constraints.txt --build-constraint constraints.txt ".[docs]"
	@$(PYTHON_IN_VENV) -m scripts.docs_site

reproduce: setup ## the paper's claim against unsupervised baselines: STS=DIR, and QUICK=1, MINILM=FOLDER; hours
	@$(PYTHON_IN_VENV) -m experiments reproduce $(if $(STS),--sts "$(STS)") $(if $(MINILM),--minilm "$(MINILM)") \
		$(if $(QUICK),--inputs 30 --seconds 20 --seed 1)

bench-generation: setup ## measure generation here, against plain decoding and the original's batching; ARGS="--inputs 96"
	@$(PYTHON_IN_VENV) -m scripts.bench_generation $(ARGS)

bench-embedding: setup ## measure the embedding service against others; ARGS="--seconds 4 --out FILE --quick"
	@$(PYTHON_IN_VENV) -m scripts.bench_embedding $(ARGS)

bench-students: setup ## measure each student's speed and size here, and with ARGS="--sts DIR" its quality
	@$(PYTHON_IN_VENV) -m scripts.bench_students $(ARGS)

bench-trainer: setup ## measure training here, against sentence-transformers alone; ARGS="--rows 20000 --sizes 10000"
	@$(PYTHON_IN_VENV) -m scripts.bench_trainer $(ARGS)

bench-cluster: setup ## measure one run on Ray against the same without; ARGS="--inputs 48 --passages 100000 --only reading"
	@$(PYTHON_IN_VENV) -m scripts.bench_cluster $(ARGS)

clean: ## remove .venv and the tools' caches; collected pairs and versions (.pairwright) stay
	@rm -rf .venv site .docs_cache .examples_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find scripts services shared tests -name __pycache__ -type d -prune -exec rm -rf {} +
