# segvit::segmenter, the library; segvit::internal, the same code with its internal headers, for
# tests, fuzzers and the tool.
find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(nlohmann_json 3.10 REQUIRED)

file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/src/*.cpp")
set(backends)
if(NOT SEGVIT_OPENVINO)
  list(FILTER sources EXCLUDE REGEX "/openvino[^/]*\\.cpp$")
else()
  find_package(OpenVINO REQUIRED COMPONENTS Runtime)
  list(APPEND backends openvino::runtime)
endif()
if(NOT SEGVIT_TENSORRT AND NOT SEGVIT_TENSORRT_RTX)
  list(FILTER sources EXCLUDE REGEX "/tensorrt[^/]*\\.cpp$")
endif()
if(SEGVIT_TENSORRT)
  find_package(TensorRT REQUIRED)
  list(APPEND backends TensorRT::TensorRT)
endif()
if(SEGVIT_TENSORRT_RTX)
  find_package(TensorRTRTX REQUIRED)
  list(APPEND backends TensorRT::TensorRTRTX)
endif()

add_library(segvit_objects OBJECT ${sources})
target_include_directories(segvit_objects
  PUBLIC "${CMAKE_CURRENT_SOURCE_DIR}/include" PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/src")
target_compile_definitions(segvit_objects PRIVATE
  SEGVIT_OPENVINO=$<BOOL:${SEGVIT_OPENVINO}> SEGVIT_TENSORRT=$<BOOL:${SEGVIT_TENSORRT}>
  SEGVIT_TENSORRT_RTX=$<BOOL:${SEGVIT_TENSORRT_RTX}> SEGVIT_VERSION="${PROJECT_VERSION}")
target_link_libraries(segvit_objects PRIVATE
  segvit::warnings nlohmann_json::nlohmann_json OpenSSL::Crypto Threads::Threads ${backends})
set_target_properties(segvit_objects PROPERTIES
  CXX_VISIBILITY_PRESET hidden C_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)

add_library(segvit $<TARGET_OBJECTS:segvit_objects>)
add_library(segvit::segmenter ALIAS segvit)
target_include_directories(segvit PUBLIC
  "$<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>"
  "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
target_compile_features(segvit PUBLIC cxx_std_20)
target_link_libraries(segvit PRIVATE OpenSSL::Crypto Threads::Threads ${backends})
set_target_properties(segvit PROPERTIES
  EXPORT_NAME segmenter VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})

add_library(segvit_internal STATIC EXCLUDE_FROM_ALL $<TARGET_OBJECTS:segvit_objects>)
add_library(segvit::internal ALIAS segvit_internal)
target_include_directories(segvit_internal PUBLIC
  "${CMAKE_CURRENT_SOURCE_DIR}/include" "${CMAKE_CURRENT_SOURCE_DIR}/src")
target_link_libraries(segvit_internal PUBLIC OpenSSL::Crypto Threads::Threads ${backends})
