# The commands of this project; `make` alone lists them. Each installs what is missing first (scripts/setup.sh).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# One set of features and one profile everywhere, so that nothing is built twice.
CARGO_FLAGS := --release --locked --features ros
ENVIRONMENT := source scripts/env.sh

.PHONY: help setup build test demo lint format clean

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup: ## install what is missing (into ~/.cache/xvla_ros, or XVLA_ROS_CACHE)
	@scripts/setup.sh

build: setup ## build target/release/xvla and xvla_node
	@$(ENVIRONMENT)
	cargo build $(CARGO_FLAGS)

test: setup ## run the whole test suite, the ROS tests included
	@$(ENVIRONMENT)
	echo '==> cargo test (a first build takes about ten minutes on two cores)' >&2
	cargo test $(CARGO_FLAGS)
	echo '==> tests of the set-up and of the launch file' >&2
	python3 -m unittest discover --verbose --start-directory tests/setup
	python3 -m unittest discover --verbose --start-directory tests/launch

demo: build ## watch the node answer two cameras over real ROS 2 topics
	@scripts/demo.sh

lint: setup ## check formatting and run clippy, warnings being errors
	@$(ENVIRONMENT)
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	if command -v shellcheck > /dev/null; then
	  shellcheck scripts/*.sh scripts/install/*.sh .ci/run
	else
	  echo 'lint: shellcheck is not installed; the shell scripts were not checked' >&2
	fi

format: setup ## format the Rust sources
	@cargo fmt

clean: ## remove everything that was built here; what was installed stays
	@rm -rf "$${CARGO_TARGET_DIR:-target}" build install log
