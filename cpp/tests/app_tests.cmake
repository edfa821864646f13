# The tool's tests: pictures that Python wrote, and what it makes of them.
set(SEGVIT_IMAGE_CASES "${CMAKE_BINARY_DIR}/image-cases")
add_test(NAME make_image_cases
         COMMAND "${SEGVIT_PYTHON}" -m cpp.tests.app_make_cases --out "${SEGVIT_IMAGE_CASES}"
         WORKING_DIRECTORY "${repository}")
set_tests_properties(make_image_cases PROPERTIES FIXTURES_SETUP image_cases TIMEOUT 300)

if(TARGET segvit_image_files)
  find_package(JPEG REQUIRED)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(libzip REQUIRED IMPORTED_TARGET libzip)
  add_executable(app_test
    app_files_test.cpp app_images_test.cpp app_npz_test.cpp app_resize_test.cpp)
  target_compile_definitions(app_test PRIVATE SEGVIT_IMAGE_CASES="${SEGVIT_IMAGE_CASES}")
  target_link_libraries(app_test PRIVATE
    segvit::warnings segvit_image_files GTest::gtest_main JPEG::JPEG
    PkgConfig::libzip)
  gtest_discover_tests(app_test DISCOVERY_MODE PRE_TEST TEST_PREFIX "app_test."
                       PROPERTIES FIXTURES_REQUIRED image_cases LABELS app TIMEOUT 120)
endif()
