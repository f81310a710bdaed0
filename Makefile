# Every target sets itself up in .venv; positronic.sh does the work and runs without make too.
MINUTES ?= 10

.PHONY: help demo test check test-slow bench vllm-test clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

demo: ## train a small model on this machine's own text and talk to it
	MINUTES=$(MINUTES) ./positronic.sh demo

test: ## the fast tests
	./positronic.sh test

check: ## format, lint, types, fast tests: what a change must pass
	./positronic.sh check

test-slow: ## minutes, not seconds: eight kills, long fuzzing
	./positronic.sh test-slow

bench: ## speeds beside their peers, as JSON in benchmarks/results
	./positronic.sh bench

vllm-test: ## serve tiny models by vLLM, in an environment of its own, and compare
	./positronic.sh vllm-test

clean: ## remove the environment and the demo's run
	rm -rf .venv .venv-vllm demo-run
