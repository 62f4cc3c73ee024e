# The CUDA part compiled for the CPU shim (csrc/cusim):
#   _cusim                   a Python module with forward and backward like _core's
#   libmasked_rnn_cusim.so   the TensorFlow ops, whose CPU kernels are the CUDA ones on the shim
#   driver/                  libcuda.so.1, libnvrtc.so.12 and libcublas.so.12 of a GPU that is the
#                            shim: what loads them first runs the package as it is, kernels too
# All stay in the build folder.

# -O1: the tests' arrays are small, and templates take long to compile.
string(REPLACE "-O3" "-O1" CMAKE_CXX_FLAGS_RELEASE "${CMAKE_CXX_FLAGS_RELEASE}")

# The scheduler is not instrumented: it tells a sanitizer itself what that has to know.
add_library(cusim_scheduler OBJECT csrc/cusim/context.cc csrc/cusim/grid.cc)
target_include_directories(cusim_scheduler PRIVATE csrc csrc/core)
if(MASKED_RNN_SANITIZE)
  target_compile_options(cusim_scheduler PRIVATE -fno-sanitize=all)
  if(MASKED_RNN_SANITIZE MATCHES "address")
    target_compile_definitions(cusim_scheduler PRIVATE CUSIM_ASAN)
  elseif(MASKED_RNN_SANITIZE MATCHES "thread")
    target_compile_definitions(cusim_scheduler PRIVATE CUSIM_TSAN)
    target_compile_options(cusim_scheduler PRIVATE -fno-builtin)
  endif()
endif()

set(cusim_sources csrc/core/check.cc csrc/core/names.cc
    csrc/core/per_process.cc csrc/core/workspace.cc)  # NumPy arrays of a reserve
foreach(name choose cluster general instances memory queue resident rnn)
  list(APPEND cusim_sources csrc/core/cuda/${name}.cc)
endforeach()
add_library(cusim STATIC ${cusim_sources} csrc/cusim/device.cc csrc/cusim/plan.cc
            csrc/cusim/kernel_instances.cc $<TARGET_OBJECTS:cusim_scheduler>)
target_include_directories(cusim PUBLIC csrc csrc/core)
if(MASKED_RNN_SANITIZE MATCHES "address")
  target_compile_definitions(cusim PRIVATE MASKED_RNN_POISON)  # see core/cuda/memory.h
endif()

# The kernels, a file for each storage type. MR_CLUSTER is a size of a cluster: in registers, and
# for float partly in shared memory.
function(cusim_kernels storage)
  add_library(cusim_${storage} OBJECT csrc/cusim/kernels.cc)
  target_include_directories(cusim_${storage} PRIVATE csrc csrc/core)
  target_compile_definitions(cusim_${storage} PRIVATE MR_STORAGE=${storage} ${ARGN})
  target_sources(cusim PRIVATE $<TARGET_OBJECTS:cusim_${storage}>)
endfunction()
cusim_kernels(float MR_REAL=float MR_COMMON "MR_CLUSTER=256, 4")
cusim_kernels(double MR_REAL=double)
cusim_kernels(BFloat16 "MR_CLUSTER=256, 8")
cusim_kernels(Float16 "MR_CLUSTER=256, 8")

if(pybind11_FOUND)
  pybind11_add_module(_cusim MODULE NO_EXTRAS csrc/cusim/module.cc)
  target_link_libraries(_cusim PRIVATE cusim)
endif()

set(cusim_ops ${tensorflow_sources})
list(FILTER cusim_ops EXCLUDE REGEX "/device_plan\\.cc$")  # which needs a GPU's driver
add_library(masked_rnn_cusim SHARED ${cusim_ops})
target_compile_definitions(masked_rnn_cusim PRIVATE MASKED_RNN_CUSIM)
target_link_libraries(masked_rnn_cusim PRIVATE cusim tensorflow_framework_stub)
target_link_options(masked_rnn_cusim PRIVATE ${all_symbols_found})

function(cusim_library name version)
  add_library(cusim_${name} SHARED ${ARGN})
  target_include_directories(cusim_${name} PRIVATE csrc csrc/core)
  set_target_properties(cusim_${name} PROPERTIES OUTPUT_NAME ${name} SOVERSION ${version}
                        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/driver)
endfunction()
cusim_library(cuda 1 tests/cuda/fake_driver.cc csrc/cusim/driver.cc)
target_link_libraries(cusim_cuda PRIVATE cusim)
cusim_library(nvrtc 12 tests/cuda/fake_nvrtc.cc)
cusim_library(cublas 12 tests/cuda/fake_cublas.cc)
add_custom_target(cusim_driver DEPENDS cusim_cuda cusim_nvrtc cusim_cublas)
