# TensorRT::TensorRT, 10.3 or later. Hints: TENSORRT_ROOT, or TENSORRT_INCLUDE and TENSORRT_LIBRARY;
# for CUDA without a toolkit CUDA_INCLUDE and CUDA_RUNTIME_LIBRARY.
include(FindTensorRTShared)
include(FindPackageHandleStandardArgs)

segvit_find_nvinfer(TENSORRT "nvinfer;nvinfer_11;nvinfer_10" "No Python wheel ships the headers: \
they come with NVIDIA's TensorRT tar archive, its Debian packages (libnvinfer-headers-dev and \
libnvinfer-dev) or the container nvcr.io/nvidia/tensorrt.")
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TENSORRT_LIBRARY TENSORRT_INCLUDE VERSION_VAR TENSORRT_VERSION)
if(TENSORRT_VERSION AND TENSORRT_VERSION VERSION_LESS 10.3)
  message(FATAL_ERROR "TensorRT: expected 10.3 or later, got ${TENSORRT_VERSION} in ${TENSORRT_INCLUDE}")
endif()
segvit_make_nvinfer_target(TensorRT::TensorRT TENSORRT)
