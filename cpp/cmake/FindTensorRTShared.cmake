# What finding TensorRT and finding TensorRT-RTX have in common.
#
# segvit_find_cuda(): TensorRT::cudart, the CUDA runtime, from a toolkit or from NVIDIA's wheels.
# segvit_find_nvinfer(<variable prefix> <library names> <where headers come from>): the folder of
# NvInfer.h, the library, and the version that the header says, in the caller's scope.
include_guard(GLOBAL)

set(SEGVIT_CUDA_HINT
  "a CUDA toolkit, or the wheels nvidia-cuda-runtime and nvidia-cuda-crt: pip install nvidia-cuda-runtime nvidia-cuda-crt, then -DCUDA_INCLUDE=…/site-packages/nvidia/cu13/include")

if(SEGVIT_TENSORRT AND SEGVIT_TENSORRT_RTX)
  message(FATAL_ERROR
    "SEGVIT_TENSORRT and SEGVIT_TENSORRT_RTX: expected one of them, both define the same symbols; "
    "build the library twice, once with each")
endif()

function(segvit_find_cuda)
  if(TARGET TensorRT::cudart)
    return()
  endif()
  if(NOT CUDA_INCLUDE)  # what was asked for goes before what is installed
    find_package(CUDAToolkit QUIET)
  endif()
  add_library(TensorRT::cudart INTERFACE IMPORTED GLOBAL)
  if(CUDAToolkit_FOUND)
    target_link_libraries(TensorRT::cudart INTERFACE CUDA::cudart)
    return()
  endif()
  find_path(CUDA_INCLUDE cuda_runtime_api.h HINTS ENV CUDA_INCLUDE DOC "CUDA runtime headers")
  # Wheels name the library with its version alone.
  find_library(CUDA_RUNTIME_LIBRARY NAMES cudart libcudart.so.13 libcudart.so.12
               HINTS "${CUDA_INCLUDE}/../lib" "${CUDA_INCLUDE}/../lib64" DOC "CUDA runtime library")
  if(NOT CUDA_INCLUDE OR NOT EXISTS "${CUDA_INCLUDE}/crt/host_defines.h" OR NOT CUDA_RUNTIME_LIBRARY)
    message(FATAL_ERROR
      "CUDA runtime: cuda_runtime_api.h, crt/host_defines.h or the library was not found (got "
      "CUDA_INCLUDE=${CUDA_INCLUDE}, CUDA_RUNTIME_LIBRARY=${CUDA_RUNTIME_LIBRARY}); install "
      "${SEGVIT_CUDA_HINT}")
  endif()
  set_target_properties(TensorRT::cudart PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${CUDA_INCLUDE}"
    INTERFACE_LINK_LIBRARIES "${CUDA_RUNTIME_LIBRARY}")
endfunction()

function(segvit_find_nvinfer prefix libraries origin)
  find_path(${prefix}_INCLUDE NvInfer.h
            HINTS "${${prefix}_ROOT}" ENV ${prefix}_ROOT ENV ${prefix}_INCLUDE
            PATH_SUFFIXES include DOC "Folder of NvInfer.h")
  find_library(${prefix}_LIBRARY NAMES ${libraries}
               HINTS "${${prefix}_ROOT}" ENV ${prefix}_ROOT "${${prefix}_INCLUDE}/.."
               PATH_SUFFIXES lib lib64 DOC "TensorRT library")
  if(NOT ${prefix}_INCLUDE OR NOT ${prefix}_LIBRARY)
    message(FATAL_ERROR
      "NvInfer.h or the library was not found (got ${prefix}_INCLUDE=${${prefix}_INCLUDE}, "
      "${prefix}_LIBRARY=${${prefix}_LIBRARY}); ${origin} Say where with -D${prefix}_ROOT=DIR, or "
      "with -D${prefix}_INCLUDE=DIR and -D${prefix}_LIBRARY=FILE.")
  endif()
  set(version "")
  if(EXISTS "${${prefix}_INCLUDE}/NvInferVersion.h")
    file(STRINGS "${${prefix}_INCLUDE}/NvInferVersion.h" lines
         REGEX "^#define (NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)(_RTX|_ENTERPRISE)? +[0-9]+")
    foreach(part IN ITEMS MAJOR MINOR PATCH)
      string(REGEX MATCH "_${part}(_RTX|_ENTERPRISE)? +([0-9]+)" found "${lines}")
      list(APPEND version "${CMAKE_MATCH_2}")
    endforeach()
    string(REPLACE ";" "." version "${version}")
  endif()
  set(${prefix}_VERSION "${version}" PARENT_SCOPE)
endfunction()

function(segvit_make_nvinfer_target target prefix)
  if(TARGET ${target})
    return()
  endif()
  segvit_find_cuda()
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${${prefix}_INCLUDE}"
    INTERFACE_LINK_LIBRARIES "${${prefix}_LIBRARY};TensorRT::cudart")
endfunction()
