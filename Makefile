# The commands of this project. `make` lists them. Each one first installs what is missing (scripts/setup.sh).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# Every command uses the same profile, so that nothing is built twice.
CARGO_FLAGS := --release --locked
FEATURES := ros,onnxruntime,tensorrt

CUDA ?= $(XVLA_CUDA)
export XVLA_CUDA := $(CUDA)
ifeq ($(CUDA),1)
  FEATURES := ros,cuda,onnxruntime,tensorrt
  # The other libtorch needs another torch-sys and so another build of everything that depends on it. A target folder of
  # its own keeps a switch between the two from rebuilding them.
  export CARGO_TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/cuda
endif
ENVIRONMENT := source scripts/env.sh

.PHONY: help setup build test fuzz demo soak lint format clean

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16
	@echo '  CUDA=1 with any of them: for an NVIDIA GPU, with a libtorch of its own (fetches 2.5 GB once)'

setup: ## install what is missing (into ~/.cache/xvla_ros, or XVLA_ROS_CACHE)
	@scripts/setup.sh

build: setup ## build target/release/xvla and xvla_node (with CUDA=1, in target/cuda/release)
	@$(ENVIRONMENT)
	cargo build $(CARGO_FLAGS) --features $(FEATURES)
	scripts/strip.sh "$${CARGO_TARGET_DIR:-target}/release"

test: setup ## run the whole test suite, the ROS tests included
	@$(ENVIRONMENT)
	# The same random values each time, so that what fails is what changed; `make fuzz` looks for new ones.
	export PROPTEST_RNG_SEED="$${PROPTEST_RNG_SEED:-1}"
	echo '==> cargo test (a first build takes about ten minutes on two cores)' >&2
	cargo test $(CARGO_FLAGS) --features $(FEATURES)
	echo '==> tests of the set-up and of the launch file' >&2
	python3 -m unittest discover --verbose --start-directory tests/setup
	python3 -m unittest discover --verbose --start-directory tests/launch
	echo "==> a new user's path: record, replay, calibrate, measure" >&2
	tests/user_path.sh
	echo '==> tests of the CUDA kernels (where PyTorch, CuPy and a GPU are)' >&2
	python3 -m unittest discover --verbose --start-directory tests/gpu

fuzz: setup ## damage checkpoints and batches in many ways, for minutes, and read them
	@$(ENVIRONMENT)
	XVLA_FUZZ_CASES="$${XVLA_FUZZ_CASES:-20000}" cargo test $(CARGO_FLAGS) --features $(FEATURES) --test fuzz_files

demo: build ## watch the node answer two cameras over real ROS 2 topics, and move an arm
	@scripts/demo.sh

soak: build ## hold the node's commands to its promises for ten minutes (less: SECONDS=60, or MINUTES=2)
	@tools/soak.sh $(if $(SECONDS),--seconds $(SECONDS),$(if $(MINUTES),--minutes $(MINUTES)))

lint: setup ## check formatting and run clippy, warnings being errors
	@$(ENVIRONMENT)
	cargo fmt --check
	# The code for GPUs is checked on every machine, because that needs only CUDA's headers.
	for features in ros,onnxruntime,tensorrt ros,cuda,onnxruntime,tensorrt; do
	  cargo clippy $(CARGO_FLAGS) --features "$$features" --all-targets -- -D warnings
	done
	if command -v shellcheck > /dev/null; then
	  shellcheck scripts/*.sh scripts/install/*.sh tests/*.sh tools/*.sh .ci/run
	else
	  echo 'lint: shellcheck is not installed; the shell scripts were not checked' >&2
	fi

format: setup ## format the Rust sources
	@cargo fmt

clean: ## remove everything that was built here; what was installed stays
	@rm -rf "$${CARGO_TARGET_DIR:-target}" build install log
