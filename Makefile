# Two commands for newcomers: `make demo` and `make test`. `make help` lists the rest.
#
# Variables, all optional:
#   PYTHON=python3.11        the interpreter that the virtual environment is made with
#   VENV=.venv               where the virtual environment lies
#   APP_VENV=.venv-app       where that of the MONAI Label app lies, which needs older versions of pydicom and numpy
#   TORCH=torch==2.13.0      what pip installs as torch; the default is the version that was tested
#   TORCH_INDEX_URL=URL      where pip looks for torch: the CPU index that PyTorch's install page shows keeps a machine
#                            without a GPU free of CUDA packages
#   WEIGHTS=DIR              demo: pretrained 2D network, a Hugging Face directory with a semantic segmentation model
#   DEMO_LABEL=demo-label    demo-label: the folder that everything is written to
#   DEMO_MINING=demo-mining  demo-mining: the folder that everything is written to
#   DEMO=demo                demo: the folder that everything is written to

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-core test-app test-e2e debian-e2e lint clean-demo clean-venv demo-label demo-network demo-mining

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
APP_VENV ?= .venv-app
DEBIAN := orthanc orthanc-dicomweb chromium
TORCH ?= torch==2.13.0
TORCH_INDEX_URL ?=
WEIGHTS ?=
DEMO ?= demo
DEMO_LABEL ?= demo-label
DEMO_MINING ?= demo-mining

BIN := $(VENV)/bin
APP_BIN := $(APP_VENV)/bin
PIP := $(BIN)/python -m pip --no-input --disable-pip-version-check
APP_PIP := $(APP_BIN)/python -m pip --no-input --disable-pip-version-check
BUNDLE := bundles/mn_cotraining/configs
# One thread each: two trainings run side by side, and two threads in one of them would mostly wait for each other.
RUN := OMP_NUM_THREADS=1 $(BIN)/python -m monai.bundle run
TRAIN := '$(BUNDLE)/train.json','configs/datasets/phantom.json','configs/recipes/demo.json'

ifeq ($(strip $(WEIGHTS)),)
NETWORK_2D := segformer-tiny-random from RANDOM weights (no WEIGHTS=DIR given), all of it trained
NETWORK_2D_KEYS :=
else
NETWORK_2D := $(abspath $(WEIGHTS)), pretrained, fine-tuned with LoRA
NETWORK_2D_KEYS := --model_2d '$(abspath $(WEIGHTS))' --pretrained True --finetuning lora
endif

help:
	@echo "make demo        phantom scans, co-training on two CPU cores, evaluation, $(DEMO)/report.html"
	@echo "make test        style check and the quick tests, those of the MONAI Label app included"
	@echo "make test-core   the same without the app"
	@echo "make test-app    the app's quick tests alone, in a virtual environment of their own"
	@echo "make test-e2e    the app with Orthanc, OHIF and Chromium, which it installs from Debian (minutes)"
	@echo "make demo-label  a simulated clinician labels while the server retrains itself, $(DEMO_LABEL)/report.html"
	@echo "make demo-mining phantom polyps, a random walker's masks teach a small U-Net++, $(DEMO_MINING)/report.html"
	@echo "make lint        style check alone (ruff)"
	@echo "make clean-demo  remove $(DEMO)/ and $(DEMO_MINING)/"
	@echo "make clean-venv  remove $(VENV)/ and $(APP_VENV)/"
	@echo "Variables (PYTHON, VENV, APP_VENV, TORCH, TORCH_INDEX_URL, WEIGHTS, DEMO): see the top of the Makefile."

# ------------------------------------------------------------------------------------------------ installation

$(VENV)/.torch:
	@echo "== virtual environment $(VENV), $(TORCH)$(if $(TORCH_INDEX_URL), from $(TORCH_INDEX_URL))"
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("mnseg needs Python 3.10 or newer (3.11 is tested): make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$(TORCH)"
	@touch $@

$(VENV)/.mnseg: $(VENV)/.torch setup.cfg pyproject.toml
	@echo "== mnseg and what it needs"
	$(PIP) install --editable .
	@touch $@

$(VENV)/.mnseg-mining: $(VENV)/.mnseg
	@echo "== what mining needs"
	$(PIP) install --editable '.[mining]'
	@touch $@

$(VENV)/.mnseg-test: $(VENV)/.mnseg
	@echo "== what the tests need"
	$(PIP) install --editable '.[test]'
	@touch $@

# Torch is pinned in every command: MONAI Label brings torchvision, whose newest release would bring another torch. The
# one that fits by number may still be built for another torch, and then peft cannot be imported beside it. MONAI Label
# also brings sam2 (nothing here uses it), which is built from source; in isolation it would download another torch.
$(APP_VENV)/.mnseg-app: setup.cfg pyproject.toml
	@echo "== virtual environment $(APP_VENV): $(TORCH), MONAI Label, what the app's tests need"
	[ -x $(APP_BIN)/python ] || $(PYTHON) -m venv $(APP_VENV)
	$(APP_PIP) install $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$(TORCH)" $(if $(TORCH_INDEX_URL),torchvision)
	$(APP_PIP) install setuptools wheel
	SAM2_BUILD_CUDA=0 $(APP_PIP) install --no-build-isolation "$(TORCH)" sam2
	$(APP_PIP) install "$(TORCH)" --editable '.[test-app]'
	@if $(APP_PIP) show --quiet torchvision 2>/dev/null && ! $(APP_BIN)/python -c 'import torchvision' 2>/dev/null; then \
	  echo "torchvision cannot be imported beside this torch and is removed; nothing of the app needs it."; \
	  $(APP_PIP) uninstall --yes --quiet torchvision; \
	fi
	@touch $@

clean-venv:
	rm -rf $(VENV) $(APP_VENV)

# ------------------------------------------------------------------------------------------------ tests

lint: $(VENV)/.mnseg-test
	$(BIN)/ruff check .

test: test-core test-app

# -rs: tests without their data say why they were skipped. Files are shared out among processes with one thread each.
# A process that dies ends the run with the name of its test; replaced, it leaves xdist waiting for it without end.
test-core: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n auto --maxprocesses 4 --dist loadfile --max-worker-restart 0 --ignore=tests/app

test-app: $(APP_VENV)/.mnseg-app
	$(APP_BIN)/python -m pytest -rs tests/app

# A PACS, a browser, and what drives it; the tests start and end them on free ports of this computer.
test-e2e: $(APP_VENV)/.mnseg-e2e debian-e2e
	OMP_NUM_THREADS=1 $(APP_BIN)/python -m pytest -rs -m e2e tests/app

$(APP_VENV)/.mnseg-e2e: $(APP_VENV)/.mnseg-app
	@echo "== playwright, which drives the browser, into $(APP_VENV)"
	$(APP_PIP) install playwright
	@touch $@

# The packages are asked not to start Orthanc as a service: the tests start one of their own.
debian-e2e:
	@missing=; for package in $(DEBIAN); do \
	  dpkg-query -W -f '$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; done; \
	[ -z "$$missing" ] && exit 0; \
	command -v apt-get > /dev/null || { echo "install$$missing by your system's means: there is no apt-get here" >&2; exit 1; }; \
	as_root=; [ "$$(id -u)" = 0 ] || as_root=sudo; \
	echo "== installing from Debian:$$missing ($${as_root:-as root})"; \
	$$as_root apt-get update && \
	$$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends $$missing

# ------------------------------------------------------------------------------------------------ demo

demo: demo-network $(DEMO)/report.html
	@echo
	@echo "Done. Open $(abspath $(DEMO)/report.html) in a browser."
	@echo "(2D network: $(NETWORK_2D). 'make clean-demo' starts over.)"

# A demo belongs to one 2D network; WEIGHTS given later must not silently show the old result.
demo-network:
ifneq ($(strip $(WEIGHTS)),)
	@[ -f '$(abspath $(WEIGHTS))/config.json' ] || { \
	  echo "WEIGHTS=$(WEIGHTS) is no Hugging Face directory: it has no config.json" >&2; exit 1; }
endif
	@mkdir -p $(DEMO)
	@[ -f $(DEMO)/mn/models/checkpoint.pt ] || echo '$(NETWORK_2D)' > $(DEMO)/network-2d.txt
	@[ "$$(cat $(DEMO)/network-2d.txt)" = '$(NETWORK_2D)' ] || { \
	  echo "$(DEMO)/ was made with another 2D network ($$(cat $(DEMO)/network-2d.txt)): run 'make clean-demo' first." >&2; exit 1; }
	@echo "== 2D network: $(NETWORK_2D)"

$(DEMO)/data/datalist.json: | $(VENV)/.mnseg demo-network
	@echo "== artificial scans: 4 labeled, 24 unlabeled, 6 for validation, 8 for testing"
	$(BIN)/mnseg phantom $(DEMO)/data
	$(BIN)/mnseg check $@

$(DEMO)/.trained: $(DEMO)/data/datalist.json
	@echo "== training, two at a time: M&N (bar below, log in $(DEMO)/mn.log) and the same network on labels only,"
	@echo "   with as many updates (log in $(DEMO)/supervised.log). Stopped? 'make demo' continues."
	@$(RUN) --config_file "[$(TRAIN),'configs/ablations/supervised_only.json']" $(NETWORK_2D_KEYS) \
	    --dataset_dir $(DEMO)/data --run_dir $(DEMO)/supervised >> $(DEMO)/supervised.log 2>&1 & other=$$!; \
	trap 'kill $$other 2>/dev/null || true' EXIT; trap 'exit 130' INT TERM; \
	$(RUN) --config_file "[$(TRAIN)]" $(NETWORK_2D_KEYS) --dataset_dir $(DEMO)/data --run_dir $(DEMO)/mn \
	    >> $(DEMO)/mn.log || { tail -n 3 $(DEMO)/mn.log; echo "M&N training FAILED, see above and $(DEMO)/mn.log" >&2; exit 1; }; \
	echo "M&N is trained; waiting for the other one"; \
	wait $$other || { tail -n 5 $(DEMO)/supervised.log; echo "supervised training FAILED, see above and $(DEMO)/supervised.log" >&2; exit 1; }
	@touch $@

$(DEMO)/%/eval/field_metrics.csv: $(DEMO)/.trained
	@echo "== evaluation on the 8 test scans: $*"
	@$(RUN) --config_file "['$(BUNDLE)/evaluate.json','$(DEMO)/$*/model.json','configs/metrics/field.json']" \
	    --dataset_dir $(DEMO)/data --run_dir $(DEMO)/$* > $(DEMO)/$*.evaluate.log 2>&1 \
	    || { tail -n 5 $(DEMO)/$*.evaluate.log; echo "evaluation FAILED, see $(DEMO)/$*.evaluate.log" >&2; exit 1; }

$(DEMO)/report.html: $(DEMO)/mn/eval/field_metrics.csv $(DEMO)/supervised/eval/field_metrics.csv
	@echo "== report"
	$(BIN)/mnseg report --datalist $(DEMO)/data/datalist.json --run "M&N=$(DEMO)/mn" \
	    --run "supervised only=$(DEMO)/supervised" --baseline "supervised only" -o $@

# A clinician is simulated: MONAI Label's client, masks corrected towards the truth within a budget.
demo-label: $(APP_VENV)/.mnseg-app
	$(APP_BIN)/python benchmarks/demo_label.py --out $(DEMO_LABEL)
	@echo "Done. Open $(abspath $(DEMO_LABEL)/report.html) in a browser."

# ------------------------------------------------------------------------------------------------ demo of mining

MINING := bundles/sam_mining/configs
TRAIN_MINING := '$(MINING)/train.json','configs/datasets/phantom_polyps.json','configs/mining/demo.json'

demo-mining: $(DEMO_MINING)/report.html
	@echo "Done. Open $(abspath $(DEMO_MINING)/report.html) in a browser. ('rm -r $(DEMO_MINING)' starts over.)"

$(DEMO_MINING)/data/datalist.json: | $(VENV)/.mnseg-mining
	@echo "== artificial images of polyps: 8 labeled, 40 unlabeled, 8 for validation, 16 for testing"
	$(BIN)/mnseg phantom --kind polyps $(DEMO_MINING)/data
	$(BIN)/mnseg check --planar $@

$(DEMO_MINING)/.trained: $(DEMO_MINING)/data/datalist.json
	@echo "== training, two at a time: with mined labels (bar below, log in $(DEMO_MINING)/mining.log) and on labels alone,"
	@echo "   with as many updates (log in $(DEMO_MINING)/supervised.log). The large model is a random walker, no weights."
	@$(RUN) --config_file "[$(TRAIN_MINING)]" --schedule supervised \
	    --dataset_dir $(DEMO_MINING)/data --run_dir $(DEMO_MINING)/supervised >> $(DEMO_MINING)/supervised.log 2>&1 & other=$$!; \
	trap 'kill $$other 2>/dev/null || true' EXIT; trap 'exit 130' INT TERM; \
	$(RUN) --config_file "[$(TRAIN_MINING)]" --dataset_dir $(DEMO_MINING)/data --run_dir $(DEMO_MINING)/mining \
	    >> $(DEMO_MINING)/mining.log || { tail -n 3 $(DEMO_MINING)/mining.log; echo "training FAILED, see above and $(DEMO_MINING)/mining.log" >&2; exit 1; }; \
	echo "trained with mined labels; waiting for the other one"; \
	wait $$other || { tail -n 5 $(DEMO_MINING)/supervised.log; echo "training FAILED, see above and $(DEMO_MINING)/supervised.log" >&2; exit 1; }
	@touch $@

$(DEMO_MINING)/%/eval/field_metrics.csv: $(DEMO_MINING)/.trained
	@echo "== evaluation on the 16 test images: $*"
	@$(RUN) --config_file "['$(MINING)/evaluate.json','$(DEMO_MINING)/$*/model.json','configs/metrics/field.json']" \
	    --dataset_dir $(DEMO_MINING)/data --run_dir $(DEMO_MINING)/$* > $(DEMO_MINING)/$*.evaluate.log 2>&1 \
	    || { tail -n 5 $(DEMO_MINING)/$*.evaluate.log; echo "evaluation FAILED, see $(DEMO_MINING)/$*.evaluate.log" >&2; exit 1; }

$(DEMO_MINING)/report.html: $(DEMO_MINING)/mining/eval/field_metrics.csv $(DEMO_MINING)/supervised/eval/field_metrics.csv
	@echo "== report"
	$(BIN)/mnseg report --datalist $(DEMO_MINING)/data/datalist.json --run "with mined labels=$(DEMO_MINING)/mining" \
	    --run "supervised only=$(DEMO_MINING)/supervised" --baseline "supervised only" -o $@

clean-demo:
	rm -rf $(DEMO) $(DEMO_MINING)
