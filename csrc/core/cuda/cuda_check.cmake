# cuda_check: every kernel instance compiles with nvcc, for each architecture, and the report of
# registers and spills is printed. Nothing is linked or run. Left out, with a sentence, where nvcc
# is missing.
find_program(NVCC nvcc PATHS /usr/local/cuda/bin)
if(NVCC)
  set(cuda_reports)
  foreach(architecture 80 90a 100)
    set(report ${CMAKE_BINARY_DIR}/cuda/sm_${architecture}.txt)
    file(GLOB kernel_sources CONFIGURE_DEPENDS csrc/core/cuda/kernels/* csrc/core/*.h)
    add_custom_command(OUTPUT ${report}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/cuda
      COMMAND sh -c "\"$@\" > ${report} 2>&1 || { cat ${report}; rm -f ${report}; exit 1; }" --
              ${NVCC} -std=c++17 -O3 --expt-relaxed-constexpr -Xptxas -v
              -I${CMAKE_SOURCE_DIR}/csrc/core
              -gencode arch=compute_${architecture},code=sm_${architecture}
              -cubin -o ${CMAKE_BINARY_DIR}/cuda/sm_${architecture}.cubin
              ${CMAKE_SOURCE_DIR}/csrc/core/cuda/kernels/all_instances.cu
      DEPENDS ${kernel_sources} VERBATIM)
    list(APPEND cuda_reports ${report})
  endforeach()
  # The tests' small kernels use every primitive, those of clusters too.
  set(primitives ${CMAKE_BINARY_DIR}/cuda/primitives.cubin)
  add_custom_command(OUTPUT ${primitives}
    COMMAND ${NVCC} -std=c++17 -I${CMAKE_SOURCE_DIR}/csrc -I${CMAKE_SOURCE_DIR}/csrc/core
            -gencode arch=compute_90a,code=sm_90a -cubin -x cu -o ${primitives}
            ${CMAKE_SOURCE_DIR}/tests/cuda/check_kernels.cuh
    DEPENDS ${kernel_sources} tests/cuda/check_kernels.cuh VERBATIM)
  list(APPEND cuda_reports ${primitives})
  add_custom_target(cuda_check DEPENDS ${cuda_reports})
else()
  add_custom_target(cuda_check COMMAND ${CMAKE_COMMAND} -E echo
                    "nvcc not found: that the kernels compile for GPUs is not checked")
endif()
