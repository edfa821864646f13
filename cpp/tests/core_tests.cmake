# The library's own tests. Those of the pool run on a back end of their own, so they need no engine.
segvit_add_test(manifest_test SOURCES manifest_test.cpp
                LIBRARIES segvit::internal nlohmann_json::nlohmann_json)
segvit_add_test(engine_list_test SOURCES engine_list_test.cpp
                LIBRARIES segvit::internal nlohmann_json::nlohmann_json)
segvit_add_test(session_test SOURCES session_test.cpp LIBRARIES segvit::internal)
segvit_add_test(views_test SOURCES views_test.cpp LIBRARIES segvit::internal)

if(SEGVIT_OPENVINO)
  # Against the library as it is installed, so that a name it forgot to export is missed here.
  segvit_add_test(segmenter_test SOURCES segmenter_test.cpp
                  LIBRARIES segvit::segmenter nlohmann_json::nlohmann_json)
  segvit_add_test(load_test SOURCES load_test.cpp
                  LIBRARIES segvit::segmenter nlohmann_json::nlohmann_json)
  if(NOT SEGVIT_SANITIZE)  # it replaces operator new, and so do sanitizers
    segvit_add_test(allocation_test SOURCES allocation_test.cpp LIBRARIES segvit::segmenter)
  endif()

  add_executable(c_api_test c_api_test.c)
  target_link_libraries(c_api_test PRIVATE segvit::warnings segvit::segmenter)
  add_test(NAME c_api_test COMMAND c_api_test "${SEGVIT_TEST_ARTIFACTS}")
  set_tests_properties(c_api_test PROPERTIES FIXTURES_REQUIRED artifacts TIMEOUT 300)
endif()
