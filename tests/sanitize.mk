# The native code under sanitizers, for `make sanitize`. Goals:
#   core      core_test (tests/core)
#   bindings  tests of the Python module, of the TensorFlow ops and of the CUDA device's host code
#   cuda      the CUDA kernels, run on the CPU (csrc/cusim)
#   quick     a few minutes' worth: the portable code, what threads share, the kernels on LSTM
# Each under AddressSanitizer with UBSan, and under ThreadSanitizer: core_test, what threads do to
# the CUDA device, and the kernels, these where clang is installed: g++'s takes ten times as long to
# go from one CUDA thread to the next. ThreadSanitizer does not see the locks of Python and
# TensorFlow, so of the bindings it would give false reports.

VENV ?= .venv
B := $(CURDIR)/build/sanitize
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)

isas :=# under AddressSanitizer, beside the baseline; none named: all
thread_parts :=# of core_test; none named: all
only :=# options of pytest that leave tests out
binding_tests := test_numpy.py test_raw_ops.py test_wrong_input.py test_cuda_device.py \
  $(addprefix test_core.py::test_,calls_at_once_from_several_threads errors_name_the_argument \
                                  errors_of_other_arguments arguments_are_not_written_to) \
  $(addprefix test_ops.py::test_,functions_take_every_dtype gradient_of_one_result_alone \
                                 an_empty_reserve_is_an_error_and_no_number)
device_tests := $(addprefix test_cuda_device.py::test_,writers_at_once_and_killed \
                                                      a_kernel_is_loaded_once_by_many_threads)
cuda_tests = test_cuda.py test_cuda_cluster.py::test_cases \
  $(addprefix test_cuda_resident.py::test_,cases many_rows)

.PHONY: all core bindings cuda quick
all: core bindings cuda
core: core-address core-thread
bindings: bindings-address device-thread
cuda: cuda-address cuda-thread
quick: isas := generic
quick: thread_parts := concurrency
quick: cuda_tests := test_cuda.py::test_options test_cuda_cluster.py::test_cases \
  test_cuda_resident.py::test_cases
quick: only := -k lstm
quick: core-address core-thread cuda-address

# ---- builds: each takes all cores, so they wait for each other ----------------------------------

CLANG := $(shell for name in clang++ clang++-19 clang++-18 clang++-17; do \
                   command -v $$name && break; done)
# $(call build,folder,targets,options); a new ninja would look for make's job server in MAKEFLAGS.
build = mkdir -p $B && (flock 9 && cmake -S . -B $B/$1 -G Ninja $3 >$B/$1.log && \
                        MAKEFLAGS= cmake --build $B/$1 --target $2) 9>$B/lock
python := -DMASKED_RNN_PYTHON=ON -DPython_EXECUTABLE=$(BIN)/python
address = -DMASKED_RNN_SANITIZE=address,undefined -DCMAKE_CXX_COMPILER=g++ \
          -DMASKED_RNN_ISAS='$(isas)' -DMASKED_RNN_TESTS=ON -DMASKED_RNN_CUSIM=ON $(python)
thread := -DMASKED_RNN_SANITIZE=thread -DMASKED_RNN_ISAS=generic
# $(call package,folder): a copy of the package beside that build, with its libraries.
package = mkdir -p $B/$1/package/masked_rnn && cp masked_rnn/*.py masked_rnn/*.cc \
  $B/$1/package/masked_rnn && cp $B/$1/*.so $B/$1/package/masked_rnn

.PHONY: build-core-address build-core-thread build-bindings build-cuda-address build-cuda-thread
build-core-address:
	@$(call build,address,core_test,$(address))
build-core-thread:
	@$(call build,thread,core_test,$(thread) -DMASKED_RNN_TESTS=ON -DCMAKE_CXX_COMPILER=g++)
build-bindings:
	@$(call build,address,masked_rnn_tf _core,$(address))
build-cuda-address:
	@$(call build,address,_cusim,$(address))
build-cuda-thread:
	@$(if $(CLANG),$(call build,cuda-thread,_cusim,$(thread) $(python) -DMASKED_RNN_CUSIM=ON \
	                      -DCMAKE_CXX_COMPILER=$(CLANG)))

# ---- runs ---------------------------------------------------------------------------------------

# Sanitizers want their memory where nothing else may lie; not every container lets us ask for it.
still := $(shell setarch -R true 2>/dev/null && echo setarch -R)
export UBSAN_OPTIONS := print_stacktrace=1
export TSAN_OPTIONS := halt_on_error=1

library = $(shell $1 -print-file-name=$2)
# $(call run_pytest,libraries,environment,tests): Python knows no sanitizer, so the sanitizer's library
# is loaded before all others. In another folder, as Python would take the package from this one.
run_pytest = cd $B && $2 $(still) env LD_PRELOAD='$1' $(BIN)/pytest -q -p no:cacheprovider \
  --capture=sys $(only) $(addprefix $(CURDIR)/tests/,$3)
# A library of NVRTC's, which NVRTC does not find beside itself when a sanitizer asks on its behalf.
packages := $(wildcard $(abspath $(VENV))/lib/python3*/site-packages)
nvrtc := $(wildcard $(packages)/nvidia/*/lib/libnvrtc-builtins.so.*)
nothing :=
colons = $(subst $(nothing) $(nothing),:,$(strip $1))
# C++'s library too, as exceptions are watched. Python does not free everything when it ends, and some
# tests ask for more memory than there is.
asan_options := detect_leaks=0:allocator_may_return_null=1
under_address = $(call run_pytest,$(call colons,$(call library,g++,libasan.so) \
  $(call library,g++,libstdc++.so) $(nvrtc)),$1 ASAN_OPTIONS=$(asan_options),$2)

.PHONY: core-address core-thread bindings-address device-thread cuda-address cuda-thread
core-address: build-core-address
	@$(still) $B/address/tests/core/core_test
core-thread: build-core-thread
	@$(still) $B/thread/tests/core/core_test $(thread_parts)
bindings-address: build-bindings
	@$(call package,address)
	@$(call under_address,PYTHONPATH=$B/address/package,$(binding_tests))
device-thread: build-core-thread
	@$(call package,thread)
	@$(call run_pytest,$(call colons,$(call library,g++,libtsan.so) $(nvrtc)),\
	        PYTHONPATH=$B/thread/package,$(device_tests))
# The shim's own tests plant faults, which sanitizers have to find.
cuda-address: build-cuda-address
	@$(BIN)/pytest -q -p no:cacheprovider tests/test_cusim.py -k 'asan or address'
	@$(call under_address,MASKED_RNN_CUSIM_MODULE=$B/address,$(cuda_tests))
cuda-thread: build-cuda-thread
ifdef CLANG
	@$(BIN)/pytest -q -p no:cacheprovider tests/test_cusim.py -k 'tsan or thread_sanitizer'
	@$(call run_pytest,$(call library,$(CLANG),libclang_rt.tsan-$(shell uname -m).so),\
	        MASKED_RNN_CUSIM_MODULE=$B/cuda-thread,$(cuda_tests))
else
	@echo 'clang++ is not installed: the CUDA kernels are not run under ThreadSanitizer.'
endif
