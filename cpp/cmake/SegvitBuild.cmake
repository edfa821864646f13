# How this project's own code is compiled: standard, warnings, sanitizers, where libraries are found.
if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
# libopenvino is wherever its package was found, in a wheel as a rule: installed programs find it too.
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)
set(CMAKE_INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}" "$ORIGIN")

# segvit::warnings: linked (PRIVATE) by whatever is written here.
add_library(segvit_warnings INTERFACE)
add_library(segvit::warnings ALIAS segvit_warnings)
if(NOT MSVC)
  target_compile_options(segvit_warnings INTERFACE
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow $<$<BOOL:${SEGVIT_WERROR}>:-Werror>)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # GCC 12 sees overlaps in `"text" + std::string()` that are not there (its bug 105651).
    target_compile_options(segvit_warnings INTERFACE -Wno-restrict)
  endif()
endif()

if(SEGVIT_SANITIZE)
  add_compile_options(-fsanitize=${SEGVIT_SANITIZE} -fno-sanitize-recover=all
                      -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${SEGVIT_SANITIZE})
endif()
