# The TensorRT back end's tests: what of it needs no GPU. Compiling it needs CUDA's headers, from a
# toolkit or from the wheels nvidia-cuda-runtime and nvidia-cuda-crt of SEGVIT_PYTHON.
execute_process(COMMAND "${SEGVIT_PYTHON}" -c "import sysconfig; print(sysconfig.get_path('purelib'))"
                OUTPUT_VARIABLE site_packages OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
find_package(CUDAToolkit QUIET)
find_path(SEGVIT_CUDA_HEADERS NAMES crt/host_defines.h
          HINTS "${CUDA_INCLUDE}" ENV CUDA_INCLUDE ${CUDAToolkit_INCLUDE_DIRS}
                "${site_packages}/nvidia/cu13/include"
          DOC "Folder of cuda_runtime_api.h, for compiling alone")
add_subdirectory("${CMAKE_CURRENT_SOURCE_DIR}/tensorrt_compile")

set(entry_sources)
if(NOT SEGVIT_TENSORRT AND NOT SEGVIT_TENSORRT_RTX)
  list(APPEND entry_sources "${PROJECT_SOURCE_DIR}/src/tensorrt_entry.cpp"
                            "${PROJECT_SOURCE_DIR}/src/tensorrt_cache.cpp")
endif()
segvit_add_test(tensorrt_entry_test
                SOURCES tensorrt_entry_test.cpp tensorrt_cache_test.cpp ${entry_sources}
                LIBRARIES segvit::internal)

if(SEGVIT_CUDA_HEADERS)
  # CUDA's functions are those of tensorrt_fake_cuda.cpp, so its library is not linked.
  segvit_add_test(tensorrt_cuda_test
                  SOURCES tensorrt_cuda_test.cpp tensorrt_fake_cuda.cpp
                          "${PROJECT_SOURCE_DIR}/src/tensorrt_cuda.cpp"
                          "${PROJECT_SOURCE_DIR}/src/tensorrt_graph.cpp")
  target_include_directories(tensorrt_cuda_test PRIVATE
    "${PROJECT_SOURCE_DIR}/src" "${PROJECT_SOURCE_DIR}/include")
  target_include_directories(tensorrt_cuda_test SYSTEM PRIVATE "${SEGVIT_CUDA_HEADERS}")
endif()
