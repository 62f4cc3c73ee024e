# The native code under sanitizers: `make sanitize`, or one of its goals:
#   core      core_test (tests/core): AddressSanitizer and UBSan; ThreadSanitizer
#   bindings  tests of the Python module, the TensorFlow ops and the CUDA device: AddressSanitizer
#             and UBSan
#   cuda      the CUDA kernels on the CPU shim: AddressSanitizer and UBSan; ThreadSanitizer, with
#             clang, as g++'s takes ten times as long to go from one CUDA thread to the next
# Builds wait for each other, as each takes all cores; what is built runs beside the next build.

VENV ?= .venv
ISAS ?=# instruction sets under AddressSanitizer, beside the baseline; empty: all

B := $(CURDIR)/build/sanitize
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
CLANG := $(shell for name in clang++ clang++-19 clang++-18 clang++-17; do command -v $$name && break; done)

.PHONY: all core bindings cuda
all: core bindings cuda
core: core-address core-thread
cuda: cuda-address cuda-thread

# ---- builds -------------------------------------------------------------------------------------

# $(call build,folder,targets,options)
build = mkdir -p $B && (flock 9 && cmake -S . -B $B/$1 -G Ninja $3 >$B/$1.log && \
                        cmake --build $B/$1 --target $2) 9>$B/lock
python := -DMASKED_RNN_PYTHON=ON -DPython_EXECUTABLE=$(BIN)/python
address := -DMASKED_RNN_SANITIZE=address,undefined -DCMAKE_CXX_COMPILER=g++ \
           -DMASKED_RNN_ISAS='$(ISAS)' -DMASKED_RNN_TESTS=ON -DMASKED_RNN_CUSIM=ON $(python)
thread := -DMASKED_RNN_SANITIZE=thread -DMASKED_RNN_ISAS=generic

.PHONY: build-core-address build-core-thread build-bindings build-cuda-address build-cuda-thread
build-core-address:
	@$(call build,address,core_test,$(address))
build-core-thread:
	@$(call build,thread,core_test,$(thread) -DMASKED_RNN_TESTS=ON -DCMAKE_CXX_COMPILER=g++)
# A copy of the package has these libraries: the installed one keeps its own.
build-bindings:
	@$(call build,address,masked_rnn_tf _core,$(address))
	@mkdir -p $B/package/masked_rnn && cp masked_rnn/*.py masked_rnn/*.cc \
	    $B/address/libmasked_rnn_*.so $B/address/_core*.so $B/package/masked_rnn
build-cuda-address:
	@$(call build,address,_cusim,$(address))
build-cuda-thread:
	@$(call build,cuda-thread,_cusim,$(thread) $(python) -DMASKED_RNN_CUSIM=ON \
	        -DCMAKE_CXX_COMPILER=$(CLANG))

# ---- runs ---------------------------------------------------------------------------------------

# Sanitizers want their shadow where nothing else may lie; not every container lets us ask for it.
still := $(shell setarch -R true 2>/dev/null && echo setarch -R)
pytest := $(BIN)/pytest -q -p no:cacheprovider
# Python is no sanitizer's, so the runtime is loaded before all else, and that of C++, whose
# exceptions it wants to see. Python keeps memory to the end; some tests ask for more than there is.
under_asan = UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
  LD_PRELOAD="$$(printf '%s:' $(foreach name,asan stdc++,$(shell g++ -print-file-name=lib$(name).so)))"

.PHONY: core-address core-thread cuda-address cuda-thread
core-address: build-core-address
	@UBSAN_OPTIONS=print_stacktrace=1 $(still) $B/address/tests/core/core_test
core-thread: build-core-thread
	@$(still) $B/thread/tests/core/core_test
bindings: build-bindings
	@$(under_asan) PYTHONPATH=$B/package $(still) $(pytest) \
	    tests/test_numpy.py tests/test_raw_ops.py tests/test_cuda_device.py
cuda-address: build-cuda-address
	@$(under_asan) MASKED_RNN_CUSIM_MODULE=$B/address $(still) $(pytest) tests/test_cuda.py
cuda-thread: build-cuda-thread
	@LD_PRELOAD=$(tsan_runtime) MASKED_RNN_CUSIM_MODULE=$B/cuda-thread $(still) $(pytest) tests/test_cuda.py
