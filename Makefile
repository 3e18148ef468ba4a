# make demo   set up, train on a long-tailed set of real images, classify one of them
# make test   set up, then lint, types and every test
# make lint | make format | make bench | make clean
# PYTHON=python3.12 make test   picks the Python, and with it the stack: 3.9 to 3.11 have TensorFlow
#   2.15 and are taken first, 3.12 and 3.13 have 2.21 with Keras 3. VENV=.venv2 keeps both.

VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/digits
# Test processes; each holds TensorFlow, 1 to 2 GB. Each takes whole files, whose tests share what
# they train and export.
WORKERS ?= 2

.PHONY: demo test lint format bench clean setup setup-test

demo: setup
	@scripts/demo.sh $(BIN)/python $(RUN)

test: setup-test lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: setup-test
	$(BIN)/ruff check longtail_tf tests experiments
	$(BIN)/ruff format --check longtail_tf tests experiments
	$(BIN)/mypy

format: setup-test
	$(BIN)/ruff check --fix longtail_tf tests experiments
	$(BIN)/ruff format longtail_tf tests experiments

bench: setup-test
	$(BIN)/python experiments/benchmarks/run_all.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

setup: $(VENV)/.installed
setup-test: $(VENV)/.test-installed

# One pip command each: adding a package later could move protobuf past what TensorFlow accepts.
$(VENV)/.installed: setup.cfg pyproject.toml scripts/make_venv.sh scripts/find_python.sh
	@scripts/make_venv.sh $(VENV) ""
	@touch $@

$(VENV)/.test-installed: setup.cfg pyproject.toml scripts/make_venv.sh scripts/find_python.sh
	@scripts/make_venv.sh $(VENV) "serving,test"
	@touch $@ $(VENV)/.installed
