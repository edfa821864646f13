# The tool's tests: pictures that Python wrote, and what it makes of them.
if(NOT TARGET segvit_image_files)
  return()
endif()
set(SEGVIT_IMAGE_CASES "${CMAKE_BINARY_DIR}/image-cases")
add_test(NAME make_image_cases
         COMMAND "${SEGVIT_PYTHON}" -m cpp.tests.app_make_cases --out "${SEGVIT_IMAGE_CASES}"
         WORKING_DIRECTORY "${repository}")
set_tests_properties(make_image_cases PROPERTIES FIXTURES_SETUP image_cases TIMEOUT 300)

find_package(JPEG REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(libzip REQUIRED IMPORTED_TARGET libzip)
segvit_add_test(app_test
                SOURCES app_files_test.cpp app_images_test.cpp app_npz_test.cpp app_resize_test.cpp
                LIBRARIES segvit_image_files JPEG::JPEG PkgConfig::libzip)
target_compile_definitions(app_test PRIVATE SEGVIT_IMAGE_CASES="${SEGVIT_IMAGE_CASES}")
set_tests_properties(app_test PROPERTIES FIXTURES_REQUIRED image_cases)

if(SEGVIT_OPENVINO)
  add_test(NAME self_test
           COMMAND segvit-segment --artifact "${SEGVIT_TEST_ARTIFACTS}/single" --self-test)
  set_tests_properties(self_test PROPERTIES FIXTURES_REQUIRED artifacts TIMEOUT 300)
endif()
