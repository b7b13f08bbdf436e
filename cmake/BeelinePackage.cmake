# The installed C++ package: headers, libbeeline.so, and what find_package(beeline) and pkg-config read. Component
# `cpp`. Libraries that the core uses are private to it: a program needs none of them.
include(CMakePackageConfigHelpers)
set(core ${PROJECT_SOURCE_DIR}/src/beeline)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/beeline)

install(TARGETS beeline EXPORT beeline
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT cpp NAMELINK_COMPONENT cpp)
install(PROGRAMS $<TARGET_FILE:beelined> DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/beeline COMPONENT cpp)
install(FILES ${core}/api/transfer.h ${core}/program/beeline.h ${PROJECT_SOURCE_DIR}/include/beeline/transport_plugin.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/beeline COMPONENT cpp)
install(FILES ${core}/api/agent.h ${core}/api/fault.h ${core}/api/references.h ${core}/api/started.h
  ${core}/api/target.h ${core}/api/tensor.h ${core}/api/wait.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/beeline/api COMPONENT cpp)
install(FILES ${core}/program/convert.h ${core}/program/remote.h ${core}/program/session.h ${core}/program/value.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/beeline/program COMPONENT cpp)
install(FILES ${core}/base/export.h ${core}/base/status.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/beeline/base COMPONENT cpp)

install(EXPORT beeline FILE beelineTargets.cmake NAMESPACE beeline:: DESTINATION ${package} COMPONENT cpp)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/beelineConfig.cmake.in
  ${PROJECT_BINARY_DIR}/beelineConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/beelineConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/beelineConfig.cmake ${PROJECT_BINARY_DIR}/beelineConfigVersion.cmake
  DESTINATION ${package} COMPONENT cpp)

configure_file(${CMAKE_CURRENT_LIST_DIR}/beeline.pc.in ${PROJECT_BINARY_DIR}/beeline.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/beeline.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT cpp)
