# Everything a person or CI runs. `make` alone lists it.

MAKEFLAGS += --no-print-directory
PYTHON_BIN := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help run demo token rebuild test unit lint format bench lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

run: ## run the whole bank here (PORT=8080 REPLICAS=1 VAR_DIR=var); Ctrl-C stops it, the data stays
	@scripts/bootstrap.sh run
	@scripts/ensure_packages.sh nginx
	@$(PYTHON_BIN) -m scripts.run_embedded

demo: ## watch money move on the running bank (BASE_URL=http://127.0.0.1:8080)
	@scripts/bootstrap.sh run
	@$(PYTHON_BIN) -m scripts.demo

token: ## print a lab token: make token SUB=alice [SCOPE=bank:operator] [TTL=43200]; bank:deposit is always included
	@scripts/bootstrap.sh run
	@$(PYTHON_BIN) -m scripts.lab_keys "$${SUB-}" --scope "$${SCOPE-}" --ttl "$${TTL-43200}"

rebuild: ## rebuild the history of the running bank from its events
	@scripts/bootstrap.sh run
	@$(PYTHON_BIN) -m scripts.run_embedded --rebuild

test: ## run every test: unit, property, contract, end to end
	@scripts/bootstrap.sh dev
	@scripts/run_tests.sh all

unit: ## run the tests of the services and of what they share
	@scripts/bootstrap.sh dev
	@scripts/run_tests.sh unit

lint: ## check style, types, shell scripts, YAML and security
	@scripts/bootstrap.sh dev
	@scripts/lint.sh

format: ## format the Python code
	@scripts/bootstrap.sh dev
	@.venv/bin/black --quiet .

bench: ## measure transfers per second against pgbench (ARGS=--json)
	@scripts/bootstrap.sh dev
	@scripts/ensure_packages.sh nginx postgresql wrk
	@$(PYTHON_BIN) load-tests/bench/bench.py $(ARGS)

lock: ## pin the requirements again, with hashes
	@scripts/bootstrap.sh dev
	@PATH="$(CURDIR)/.venv/bin:$$PATH" scripts/lock.sh

clean: ## remove caches and reports (not the data in var/, not .venv)
	@rm -rf reports .mypy_cache .pytest_cache .hypothesis *-service/.mypy_cache *-service/.hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
