# Airtight's commands. `make help` prints this list; nothing here needs root.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
PIPELINE ?= flight_delays
INTERVAL ?=
FORCE ?=
FACTORS ?= 1 10 50
PARALLEL ?= 2
REPROCESS ?= failed
FIRST ?=
LAST ?=
VERSION ?=
FROM ?= 2013-06-10
TO ?= 2013-06-14
SPEED ?= max
MODE ?=
SHARE ?=
MINUTES ?=
PYTEST ?=
# Spark and TensorFlow want a core each; more workers only share the same two.
WORKERS ?= 2

BIN := .venv/bin
PY := PYTHONPATH=$(CURDIR) $(BIN)/python
INSTALLED := .venv/.installed

.PHONY: help
help: ## Show this list
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Settings:  make demo PIPELINE=flight_delays INTERVAL=2013-09 FORCE=1;  make test-fast PYTEST='-k lake'"

.PHONY: install
install: $(INSTALLED) ## Install the locked environment into .venv

# The stamp is written last: an install that was broken off is taken up again.
# PYTHONDONTWRITEBYTECODE would leave the packages uncompiled, and importing TFX would take twice as long.
$(INSTALLED): requirements.txt
	@services/check-tools $(PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -E '^uv==' requirements.txt)"
	@echo "Installing $$(grep -cE '^[a-zA-Z0-9]' requirements.txt) locked packages into .venv ..."
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode -r requirements.txt
	@touch $@

.PHONY: demo
demo: install ## Start everything, train an interval of PIPELINE, and ask the served model about one of its rows
	@$(PY) -m commands.demo --pipeline $(PIPELINE) $(if $(INTERVAL),--interval '$(INTERVAL)') $(if $(FORCE),--force)

NEW := NAME DATA LABEL TIME TASK KEY DROP TABLE TIME_ZONE TIME_FORMAT ENCODING DELIMITER DECIMAL HEADER MISSING UNREADABLE FORCE
.PHONY: new
new: install ## Write a pipeline for data of yours: NAME=bike DATA=hour.csv LABEL=count TIME=when (make new alone shows all options)
	@$(PY) -m commands.new $(foreach option,$(NEW),$(if $(filter command,$(origin $(option))),'$(option)=$(value $(option))'))

.PHONY: year
year: install ## Start everything, and train every interval of PIPELINE by one backfill (PARALLEL=2 at once, FIRST=2013-02 LAST=2013-12)
	@$(PY) -m commands.backfill --pipeline $(PIPELINE) $(if $(FIRST),--first '$(FIRST)') $(if $(LAST),--last '$(LAST)') \
		--parallel $(PARALLEL) --reprocess $(REPROCESS)

.PHONY: kafka
kafka: install ## Start the Kafka broker alone, with the topics of PIPELINE (AIRTIGHT_KAFKA=host:port for one elsewhere)
	@$(PY) -m commands.kafka $(PIPELINE)

.PHONY: stream
stream: install ## Start the broker, Flink, and the stream of PIPELINE on it (the DAG flight_delays_stream keeps the flights' running)
	@$(PY) -m commands.kafka $(PIPELINE) flink

.PHONY: start
start: install ## Start the local services (Airflow, launcher, model server, Spark)
	@$(PY) -m services up

.PHONY: stop
stop: ## Stop every local service, their children included
	@test -x $(BIN)/python || { echo "Nothing is installed, so nothing runs."; exit 0; }; $(PY) -m services down

.PHONY: status
status: install ## Show what runs, on which port, and whether it is well
	@$(PY) -m services status

.PHONY: password
password: install ## Show the password of Airflow's UI
	@$(PY) -m services password

.PHONY: logs
logs: install ## Follow the services' logs (ctrl-c ends it)
	@$(PY) -m services logs

.PHONY: rollback
rollback: VERSION := previous
rollback: promote ## Have the model server serve the version before the one that it serves: REASON="..."

.PHONY: promote
promote: install ## Serve another version: VERSION=201307010400001 or latest, REASON="..."; without VERSION, list them
	@$(PY) -m commands.promote --pipeline $(PIPELINE) $(if $(VERSION),'$(VERSION)' --reason "$${REASON:-}",--list)

.PHONY: release
release: install ## Try a version on live requests before it takes over: VERSION=latest SHARE=0.1 MINUTES=10 MODE=canary
	@$(PY) -m commands.release --pipeline $(PIPELINE) $(if $(VERSION),'$(VERSION)') $(if $(MODE),--mode '$(MODE)') \
		$(if $(SHARE),--share '$(SHARE)') $(if $(MINUTES),--minutes '$(MINUTES)')

.PHONY: audit
audit: install ## Check the audit log of PIPELINE: who had which version served, and whether a line was removed or changed
	@$(PY) -m commands.audit --pipeline $(PIPELINE) verify

.PHONY: card
card: install ## Write the model card of a version of PIPELINE, HTML and JSON: VERSION=201307010400001, or the latest
	@$(PY) -m commands.card --pipeline $(PIPELINE) '$(or $(VERSION),latest)'

.PHONY: mlflow
mlflow: install ## Add MLflow's client, by which runs are mirrored to the server that MLFLOW_TRACKING_URI names
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode -r requirements/mlflow.txt

.PHONY: test
test: install ## Run all tests, with a few of TFX's examples
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 20 -m "not tfx" $(PYTEST)

.PHONY: test-tfx
test-tfx: install ## Run all of TFX's own examples, locally, on Airflow, and beside them TFX's LocalDagRunner (an hour)
	$(PY) -m pytest -rP tests/tfx_examples $(PYTEST)

.PHONY: test-fast
test-fast: install ## Run the tests that start no Spark, TensorFlow, Airflow or server
	$(PY) -m pytest -m "not slow" $(PYTEST)

.PHONY: lint
lint: install ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PY) -m mypy
	PYTHONPATH=$(CURDIR) $(BIN)/lint-imports --no-logo

.PHONY: bench
bench: install ## Measure parsing, launching, cached runs, one month node by node, the error rates of the gate and of releases, and serving (some 75 minutes)
	@$(PY) -m benchmarks.parse
	@$(PY) -m benchmarks.launch
	@$(PY) -m benchmarks.cached
	@$(PY) -m services up
	@$(PY) -m commands.demo --pipeline flight_delays --interval $(or $(INTERVAL),2013-06)
	@$(PY) -m benchmarks.month --interval $(or $(INTERVAL),2013-06)
	@$(PY) -m benchmarks.decisions
	@$(PY) -m benchmarks.releases
	@$(MAKE) --no-print-directory stop bench-serving

.PHONY: bench-serving
bench-serving: install ## Measure the model server beside FastAPI, LitServe and the model in process, and what its prediction log costs (25 minutes)
	@servers="$${AIRTIGHT_HOME:-.airtight}/bench/servers"; 	{ $(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python "$$servers" && 	$(BIN)/uv pip install --quiet --python "$$servers/bin/python" --no-deps --compile-bytecode -r requirements/bench-servers.txt && 	echo "$(CURDIR)/.venv/lib/python3.11/site-packages" > "$$servers/lib/python3.11/site-packages/tensorflow-of-the-project.pth"; } || 		echo "The other servers could not be installed, so they are not measured." >&2
	@$(PY) -m benchmarks.serving
	@$(PY) -m benchmarks.prediction_log

.PHONY: replay
replay: install ## Publish days of PIPELINE's lake to the broker as they became known: FROM=2013-06-10 TO=2013-06-14 SPEED=3600 or max
	@$(PY) -m streaming.windows $(PIPELINE) --publish $(FROM) $(TO) --speed $(SPEED)

.PHONY: bench-stream
bench-stream: install ## Measure the stream: events a second beside Spark and the bare consumer, freshness in real time, features for a request (an hour)
	@$(PY) -m benchmarks.stream_rates --events 1000000
	@$(PY) -m benchmarks.stream_freshness --minutes 20 --rate 15000 --rate-minutes 2
	@$(PY) -m benchmarks.online

.PHONY: bench-growth
bench-growth: install ## Measure how the features' cost grows, FACTORS="1 10 50" times the year (an hour and more)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target "$${AIRTIGHT_HOME:-.airtight}/bench" -r requirements/bench.txt || \
		echo "Polars could not be installed, so it is not measured." >&2
	@PYTHONPATH="$(CURDIR):$${AIRTIGHT_HOME:-$(CURDIR)/.airtight}/bench" $(BIN)/python -m benchmarks.growth --factors $(FACTORS)

.PHONY: bench-year
bench-year: install ## Measure the year by one backfill, 1, 2 and 4 months at once, and whether they come to the same (hours)
	@$(PY) -m benchmarks.year --parallel 1 --json .year-1.json
	@$(PY) -m benchmarks.year --parallel 2 --against .year-1.json
	@$(PY) -m benchmarks.year --parallel 4 --against .year-1.json

.PHONY: soak
soak: install ## 100 runs under random kills and standstills, then 40 on PostgreSQL; 2013 through the stream beside Spark; 40 kills of the stream; two hours of it; the loop from a shift to a release
	@$(PY) -m benchmarks.kills --runs 100
	@$(PY) -m benchmarks.kills --runs 40 --metadata postgresql --airflow postgresql
	@$(PY) -m benchmarks.stream_parity
	@$(PY) -m benchmarks.stream_parity --shuffled 0 --taskmanagers 2
	@$(PY) -m benchmarks.stream_kills --events 1000000 --kills 40
	@$(PY) -m benchmarks.stream_soak --hours 2 --busy-minutes 10 --idle-minutes 10 --lifetime-minutes 10 --every 10
	@$(PY) -m benchmarks.closed_loop

.PHONY: lock
lock: install ## Resolve requirements/*.in and overrides.txt again into requirements.txt, and the jars
	$(BIN)/uv pip compile --quiet --python-version 3.11 --override requirements/overrides.txt \
		--custom-compile-command "make lock" requirements/requirements.in -o requirements.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --custom-compile-command "make lock" 		requirements/bench-servers.in -o requirements/bench-servers.txt
	$(PY) -m services.jars lock

.PHONY: clean
clean: stop ## Remove all state: lake, runs, models, logs (the environment stays)
	@home="$${AIRTIGHT_HOME:-.airtight}"; \
	marks="$$(ls -d "$$home"/{,scratch/}{metadata.sqlite,compiled/*/*.json} \
		"$$home"/{run/fernet_key,lake/*/_versions} 2>/dev/null || true)"; \
	if [ -z "$${AIRTIGHT_HOME:-}" ] || [ "$$marks" ]; then rm -rf "$$home"; \
	elif [ -e "$$home" ]; then \
		echo "$$home holds no state of Airtight; nothing was removed. Correct AIRTIGHT_HOME." >&2; exit 1; \
	fi
