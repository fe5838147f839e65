# Commands for developers, operators and CI; `make` lists them.

MAKEFLAGS += --no-print-directory
PYTHON_BIN := .venv/bin/python
RELEASE ?= var/release.json
INVENTORY ?= ansible/inventory/hosts.ini

.DEFAULT_GOAL := help
.PHONY: help run demo token rebuild verify-ledger export-ledger up down cluster cluster-down cluster-status cluster-switchover backup restore ps logs images base-images pin offline-images test test-docker test-ansible test-all integration unit lint rules bandit secrets cve-scan ci format schemas docs dashboards diagrams drills release-drill break-release release registry deploy approve rollback bench load load-check autoscale lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

run: ## run the local stack in the foreground (PORT=8080 REPLICAS=1 VAR_DIR=var); Ctrl-C stops it, data is kept
	@scripts/local/bootstrap.sh run
	@scripts/local/ensure_packages.sh nginx
	@$(PYTHON_BIN) -m scripts.local.run

demo: ## run a tour of the API on the running bank (BASE_URL=http://127.0.0.1:8080)
	@scripts/local/bootstrap.sh run
	@PYTHONPATH=clients/python $(PYTHON_BIN) -m scripts.local.demo

token: ## print a lab token: make token SUB=alice [SCOPE=bank:operator] [TTL=43200]; bank:deposit is always included
	@scripts/local/bootstrap.sh run
	@$(PYTHON_BIN) -m shared.testing.lab_keys "$${SUB-}" --scope "$${SCOPE-}" --ttl "$${TTL-43200}"

rebuild: ## rebuild the history of the running bank from its events and its ledger
	@scripts/local/bootstrap.sh run
	@$(PYTHON_BIN) -m scripts.local.run --rebuild

verify-ledger: ## verify that nobody altered the ledger of the running stack ([ROOTS=kept.json PUBLIC_KEYS=…])
	@scripts/local/bootstrap.sh run
	@scripts/ledger/verify_stack.sh

export-ledger: ## print the ledger of the composed stack for scripts/ledger/verify_ledger.py, one row a line
	@scripts/ledger/export_stack.sh

up: ## start the whole platform on Docker (BANK_PORT=8080 IMAGES=registry|offline SWARM=1; more in .env)
	@scripts/stack/up.sh

down: ## stop the composed stack; data is kept unless VOLUMES=1
	@scripts/stack/down.sh

cluster: ## start three hosts in containers with one database and one broker, a lab (CLUSTER_SUBNET=10.89.23.0/24 BUILD=0)
	@scripts/local/ensure_docker.sh
	@scripts/local/bootstrap.sh run
	@$(PYTHON_BIN) -m scripts.cluster.lab up

cluster-down: ## remove the hosts of the lab; data is kept unless VOLUMES=1
	@scripts/local/bootstrap.sh run
	@$(PYTHON_BIN) -m scripts.cluster.lab down

cluster-status: ## show the primary and the standbys of the lab
	@scripts/local/bootstrap.sh run
	@$(PYTHON_BIN) -m scripts.cluster.lab status

cluster-switchover: ## make another host of the lab the primary, for maintenance
	@scripts/local/bootstrap.sh run
	@$(PYTHON_BIN) -m scripts.cluster.lab switchover

ps: ## show the containers of the composed stack
	@scripts/stack/compose.sh ps --all

logs: ## follow the logs of the composed stack (SERVICE=nginx)
	@scripts/stack/compose.sh logs --follow --tail 100 $(SERVICE)

backup: ## back up the databases of the running stack (BACKUPS_KEPT=7)
	@scripts/stack/backup.sh

restore: ## restore the databases to a point in time or the end of the archive: make restore [TO=2026-01-31T12:00:00Z REPLACE=1]
	@scripts/stack/restore.sh

images: ## build the service images (REGISTRY=… PUSH=1)
	@scripts/local/ensure_docker.sh
	@scripts/build-images.sh $(if $(PUSH),--push)

base-images: ## copy the image references of docker/registry/Dockerfile, which Dependabot updates, to .env
	@scripts/local/bootstrap.sh run
	@$(PYTHON_BIN) -m scripts.images.base_images

pin: ## pin the base images in .env by digest; requires access to their registries
	@scripts/local/ensure_docker.sh
	@scripts/images/pin-images.sh

offline-images: ## build all base images from Debian packages, for machines without a registry (FORCE=1 DEBIAN_MIRROR=…)
	@scripts/local/ensure_docker.sh
	@scripts/images/build-offline-images.sh

test: ## run unit, property, contract and end-to-end tests without Docker (CHANGED=1: only suites affected by your changes)
	@scripts/ci/run_tests.sh test

test-docker: ## test the composed stack on Docker
	@scripts/ci/run_tests.sh compose

test-ansible: ## test the Ansible roles and a deployment on Docker
	@scripts/ci/run_tests.sh ansible

test-all: ## run all tests, as CI does
	@scripts/ci/run_tests.sh all

integration: ## run the tests that need Docker: test-docker and test-ansible (SUITES="compose-bank" selects)
	@scripts/ci/run_tests.sh integration

unit: ## run the unit tests of services, shared, scripts and monitoring (SUITES="shared local" selects)
	@scripts/ci/run_tests.sh unit

lint: ## check style, types, shell scripts, YAML, workflows and security
	@scripts/local/bootstrap.sh dev
	@scripts/ci/lint.sh

rules: ## check the configuration of Prometheus and Alertmanager with promtool and amtool
	@scripts/ci/check_rules.sh

bandit: ## scan for insecure code; high and medium findings fail (THRESHOLD=low|medium|high)
	@scripts/local/bootstrap.sh dev
	@scripts/ci/run_bandit.sh

secrets: ## scan files and all commits for secrets
	@scripts/ci/scan_secrets.sh

cve-scan: ## scan requirements and images for known vulnerabilities (WHAT=dependencies|images IMAGES_TO_SCAN=…)
	@scripts/local/bootstrap.sh dev
	@scripts/ci/cve_scan.sh $(WHAT)

ci: ## run the jobs of the workflows as GitHub's runner does, as an unprivileged user in fresh clones (JOBS="lint unit")
	@scripts/local/bootstrap.sh dev
	@$(PYTHON_BIN) -m scripts.ci.run_jobs $(JOBS)

break-release: ## roll a faulty release out on the stack of make up, and watch its rollback (FAULT=errors; without FAULT: list the faults; DAMAGE=1)
	@scripts/stack/break_release.sh $(FAULT)

release-drill: ## tamper with a signed and attested release in a local registry, and check that each case is rejected
	@scripts/ci/drill.sh tampering $(ARGS)

format: ## format the Python code
	@scripts/local/bootstrap.sh dev
	@.venv/bin/black --quiet .

schemas: ## regenerate the JSON Schemas of the events, after a change of shared/events.py
	@scripts/local/bootstrap.sh dev
	@$(PYTHON_BIN) -m scripts.docs.generate_schemas

docs: ## regenerate parts of the documentation (settings, API, events) and the Python client
	@scripts/local/bootstrap.sh dev
	@$(PYTHON_BIN) -m scripts.docs.generate_docs
	@$(PYTHON_BIN) -m scripts.docs.generate_client

dashboards: ## regenerate Grafana's dashboards, after a change of monitoring/dashboards
	@scripts/local/bootstrap.sh dev
	@$(PYTHON_BIN) -m monitoring.dashboards

diagrams: ## render the diagrams of docs/diagrams, after a change of a .dot file
	@scripts/docs/diagrams.sh

drills: ## run a drill on a dedicated stack (DRILL=… ARGS=…; without DRILL: list the drills)
	@scripts/ci/drill.sh "$(DRILL)" $(ARGS)

release: ## build, push, sign and attest a release: make release REGISTRY=… COSIGN_KEY=cosign.key REPOSITORY=… [RELEASE=var/release.json VERSION=…]
	@scripts/local/ensure_docker.sh
	@scripts/release/release.sh $(RELEASE)

registry: ## run a local image registry, for rehearsal releases: make registry DO=start|stop [REGISTRY_PORT=5000]
	@scripts/images/local_registry.sh $(DO)

deploy: ## deploy a release with a canary: make deploy [RELEASE=var/release.json INVENTORY=… ARGS="--extra-vars @settings.yml"]
	@scripts/local/bootstrap.sh deploy
	@.venv-ops/bin/ansible-playbook ansible/playbooks/deploy.yml --inventory $(INVENTORY) --extra-vars @$(RELEASE) $(ARGS)

approve: ## approve the step that a rollout waits for: make approve WEIGHT=10 [INVENTORY=… ARGS=…]
	@scripts/local/bootstrap.sh deploy
	@.venv-ops/bin/ansible-playbook ansible/playbooks/approve.yml --inventory $(INVENTORY) --extra-vars weight=$(WEIGHT) $(ARGS)

rollback: ## roll back to the previous version within seconds: make rollback [INVENTORY=… ARGS=…]
	@scripts/local/bootstrap.sh deploy
	@.venv-ops/bin/ansible-playbook ansible/playbooks/rollback.yml --inventory $(INVENTORY) $(ARGS)

bench: ## measure transfers and reads per second against pgbench (ARGS="--growth --slow-disk --json")
	@scripts/local/bootstrap.sh dev
	@scripts/local/ensure_packages.sh nginx postgresql wrk
	@scripts/local/ensure_tools.sh nats-server
	@PYTHONPATH=.:load-tests $(PYTHON_BIN) -m bench.bench $(ARGS)

load: ## run a load test with 10 users for a minute; fails on errors or a high p95 (BASE_URL USERS DURATION P95_LIMIT_MS ERROR_LIMIT_PERCENT); SHAPE=surge: ten times the users
	@scripts/local/bootstrap.sh dev
	@load-tests/run_load_test.sh

load-check: ## run the load test on a dedicated stack
	@scripts/local/bootstrap.sh dev
	@scripts/local/ensure_docker.sh
	@scripts/stack/with_stack.sh load-tests/run_load_test.sh

autoscale: ## control the autoscaler manually: make autoscale DO=status|pause|resume|check-proxy|"scale account-service 4"
	@scripts/stack/compose.sh exec -T autoscale-service python -m app.cli $(DO)

lock: ## pin all requirements with hashes
	@scripts/local/bootstrap.sh dev
	@PATH="$(CURDIR)/.venv/bin:$$PATH" scripts/ci/lock.sh

clean: ## remove caches and reports (keeps the data in var/ and .venv)
	@rm -rf reports .mypy_cache .pytest_cache .hypothesis *-service/.mypy_cache *-service/.hypothesis
	@find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
