# TensorRT::TensorRTRTX. Hints: TENSORRT_RTX_ROOT, or TENSORRT_RTX_INCLUDE and TENSORRT_RTX_LIBRARY;
# for CUDA without a toolkit CUDA_INCLUDE and CUDA_RUNTIME_LIBRARY.
include(FindTensorRTShared)
include(FindPackageHandleStandardArgs)

# CUDA graph strategies came with 1.2.
set(oldest 1.2)
segvit_find_nvinfer(TENSORRT_RTX "tensorrt_rtx;libtensorrt_rtx.so.1" "No Python wheel ships the \
headers: they come with NVIDIA's TensorRT-RTX tar or zip archive; the library is in the wheel \
tensorrt-rtx too.")
find_package_handle_standard_args(TensorRTRTX
  REQUIRED_VARS TENSORRT_RTX_LIBRARY TENSORRT_RTX_INCLUDE VERSION_VAR TENSORRT_RTX_VERSION)
if(TENSORRT_RTX_VERSION AND TENSORRT_RTX_VERSION VERSION_LESS ${oldest})
  message(FATAL_ERROR
    "TensorRT-RTX: expected ${oldest} or later, got ${TENSORRT_RTX_VERSION} in ${TENSORRT_RTX_INCLUDE}")
endif()
segvit_make_nvinfer_target(TensorRT::TensorRTRTX TENSORRT_RTX)
