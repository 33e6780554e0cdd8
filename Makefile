# Every target says what it does; `make help` lists them. Example lines can be pasted.
PYTHON ?= .venv/bin/python
FUZZ_SECONDS ?= 60
# Of the model-... targets: the checkpoint, the file made of it, a tokenizer from elsewhere, and the folder for results.
MODEL_DIR ?= bench/demo_model/checkpoint
OUT ?= .cache/model
GGUF ?= $(OUT)/clean-f16.gguf
TOKENIZER ?=
BITNET = $(PYTHON) -m bitnet_numba
WITH_TOKENIZER = $(if $(TOKENIZER),--tokenizer "$(TOKENIZER)")
.DEFAULT_GOAL := help
.PHONY: help setup test test-slow test-bounds test-aarch64 fuzz lint type imports size cover docs wheel kernels demo-model demo-check bench clean ci \
	model-export model-quantize-i2s model-inspect-ln model-validate model-clean model-check model-probe model-baseline baselines

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

setup:  ## make a virtual environment with everything for development: make setup && . .venv/bin/activate
	python3 -m venv .venv
	$(PYTHON) -m pip install -e '.[dev]'

test:  ## run the tests, but for the slow ones: make test
	$(PYTHON) -m pytest -n 2 --dist loadfile

test-slow:  ## run the slow tests: make test-slow
	$(PYTHON) -m pytest -m slow -n 2 --dist loadfile

test-bounds:  ## run the kernels' tests with Numba's bounds checks: make test-bounds
	NUMBA_BOUNDSCHECK=1 BITNET_CACHE_DIR=.cache/bounds $(PYTHON) -m pytest -m 'slow or not slow' tests/backends/cpu

fuzz:  ## fuzz each target under atheris for FUZZ_SECONDS: pip install -e '.[fuzz]' && make fuzz FUZZ_SECONDS=600
	for target in gguf safetensors template; do $(PYTHON) -W error -m tests.fuzz.driver $$target $(FUZZ_SECONDS) || exit 1; done

test-aarch64:  ## compare with the bits of an emulated AArch64, for which Debian must have qemu-user-static: make test-aarch64
	PYTHON=$(PYTHON) tests/aarch64/make_root.sh .cache/aarch64
	$(PYTHON) -m tests.aarch64.check .cache/aarch64

lint:  ## check style and formatting: make lint
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

type:  ## check types, strictly: make type
	$(PYTHON) -m mypy

imports:  ## check who imports whom: make imports
	$(dir $(PYTHON))lint-imports

size:  ## print the size table; fail where a room is too large: make size
	$(PYTHON) bench/size.py

cover:  ## run the tests and print what they leave out: make cover
	$(PYTHON) -m pytest -m 'slow or not slow' -n 2 --dist loadfile --cov --cov-report=term

docs:  ## write the generated reference pages again: make docs
	$(PYTHON) docs/generate_cli_reference.py
	$(PYTHON) docs/generate_python_reference.py

bench:  ## measure everything and write docs/reference/performance.md: make bench BENCH_MODEL=~/ggml-model-i2_s.gguf
	$(PYTHON) -m bench.suite $(RUNS)
	$(PYTHON) -m docs.generate_performance_page

wheel:  ## build the wheel: make wheel
	$(PYTHON) -m build --wheel

kernels:  ## compile the kernels that the wheel of bitnet-numba-kernels ships to this Python: make kernels PYTHON=python3.12
	$(PYTHON) -m kernels_package.build --out dist

demo-model:  ## make the embedded model again from its checkpoint: make demo-model
	$(PYTHON) -m bench.demo_model.make

demo-check:  ## check that the embedded model's bytes can be made again: make demo-check
	$(PYTHON) -m bench.demo_model.make --check

model-export:  ## turn a checkpoint into a GGUF file, with fingerprint and meta.json: make model-export MODEL_DIR=~/checkpoint OUT=out
	mkdir -p "$(OUT)"
	$(BITNET) export "$(MODEL_DIR)" -o "$(OUT)" --type f16 $(WITH_TOKENIZER)

model-quantize-i2s:  ## pack the linear layers of a GGUF file in two bits a weight: make model-quantize-i2s GGUF=out/clean-f16.gguf OUT=out
	mkdir -p "$(OUT)"
	$(BITNET) quantize "$(GGUF)" -o "$(OUT)/clean-i2_s.gguf" --type i2_s

model-inspect-ln:  ## check the norms and projections of a GGUF file, strictly: make model-inspect-ln GGUF=out/clean-f16.gguf
	BITNET_STRICT_MODE=1 $(BITNET) inspect "$(GGUF)" --ln-stats --gate auto

model-validate:  ## load a GGUF file and let it write, without corrections: make model-validate GGUF=out/clean-f16.gguf
	$(BITNET) validate "$(GGUF)" $(WITH_TOKENIZER)

model-clean: model-export  ## export, then validate what came of it: make model-clean MODEL_DIR=~/checkpoint OUT=out
	$(MAKE) model-validate GGUF="$(OUT)/clean-f16.gguf"

model-check: model-clean  ## export, quantize, inspect and validate both files: make model-check MODEL_DIR=~/checkpoint OUT=out
	$(MAKE) model-inspect-ln GGUF="$(OUT)/clean-f16.gguf"
	$(MAKE) model-quantize-i2s GGUF="$(OUT)/clean-f16.gguf"
	$(MAKE) model-inspect-ln model-validate GGUF="$(OUT)/clean-i2_s.gguf"

model-probe:  ## print what a model writes after the three probe prompts: make model-probe GGUF=out/clean-i2_s.gguf
	for prompt in "The capital of France is" "Once upon a time" "def factorial(n):"; do \
		$(BITNET) run -m "$(GGUF)" "$$prompt" -n 8 --greedy || exit $$?; done

model-baseline:  ## record fingerprints, norms and probe texts of a model under OUT: make model-baseline GGUF=out/clean-i2_s.gguf OUT=out
	mkdir -p "$(OUT)"
	name=$$(basename "$(GGUF)" .gguf) && $(BITNET) baseline create "$(GGUF)" -o "$(OUT)/$$name.baseline.md"

baselines:  ## check the embedded model against its committed baseline, and every committed receipt: make baselines
	$(BITNET) baseline verify docs/baselines/bitnet-demo-5.8m-i2_s-gguf.json demo
	for receipt in docs/baselines/*.receipt.json $(wildcard docs/baselines/*-cpu.json); do \
		$(BITNET) receipt verify "$$receipt" || exit $$?; done
	$(BITNET) receipt replay docs/baselines/bitnet-demo-5.8m-i2_s-gguf.receipt.json

clean:  ## remove what builds and tests leave: make clean
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage .coverage.* .cache

ci:  ## everything that a submission must pass: make ci
	.ci/run
