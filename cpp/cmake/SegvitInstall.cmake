# `cmake --install`: library, two public headers, `find_package(segvit)` and pkg-config.
include(CMakePackageConfigHelpers)

install(TARGETS segvit EXPORT segvit_targets)
install(FILES "${CMAKE_CURRENT_SOURCE_DIR}/include/segvit/segmenter.hpp"
              "${CMAKE_CURRENT_SOURCE_DIR}/include/segvit/segvit.h"
        DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/segvit")
set(package_folder "${CMAKE_INSTALL_LIBDIR}/cmake/segvit")
install(EXPORT segvit_targets NAMESPACE segvit:: FILE segvitTargets.cmake
        DESTINATION "${package_folder}")

# A static library leaves linking what it needs to whoever links it.
get_target_property(library_type segvit TYPE)
configure_package_config_file(cmake/segvitConfig.cmake.in segvitConfig.cmake
                              INSTALL_DESTINATION "${package_folder}")
write_basic_package_version_file(segvitConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/segvitConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/segvitConfigVersion.cmake"
        DESTINATION "${package_folder}")

# Relative to itself, so that an installed folder may move.
set(pkgconfig_folder "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
file(RELATIVE_PATH to_prefix "/prefix/${pkgconfig_folder}" "/prefix")
configure_file(cmake/segvit.pc.in segvit.pc.in @ONLY)
file(GENERATE OUTPUT segvit.pc INPUT "${CMAKE_CURRENT_BINARY_DIR}/segvit.pc.in")
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/segvit.pc" DESTINATION "${pkgconfig_folder}")
