# `beeline._core`: the nanobind module, from python/src/*.cc, with what travels beside it in the wheel.
find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
execute_process(
  COMMAND ${Python_EXECUTABLE} -m nanobind --cmake_dir
  OUTPUT_VARIABLE nanobind_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
find_package(nanobind CONFIG REQUIRED)

file(GLOB python_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/python/src/*.cc)
if(NOT python_sources)
  message(FATAL_ERROR "BEELINE_PYTHON is on, but python/src has no sources")
endif()
nanobind_add_module(_core NB_STATIC NOMINSIZE ${python_sources})
target_include_directories(_core PRIVATE ${PROJECT_SOURCE_DIR}/python/src)
# As system headers, or our warning flags would judge nanobind's.
target_include_directories(_core SYSTEM PRIVATE ${nanobind_ROOT}/../include ${Python_INCLUDE_DIRS})
target_link_libraries(_core PRIVATE beeline_runtime beeline_warnings)
# The module shows its entry point alone; what libbeeline.so exports is hidden here.
target_link_options(_core PRIVATE -Wl,--exclude-libs,ALL)
target_compile_definitions(_core PRIVATE BEELINE_VERSION="${PROJECT_VERSION}")

install(TARGETS _core LIBRARY DESTINATION beeline COMPONENT python)
install(FILES ${PROJECT_SOURCE_DIR}/include/beeline/transport_plugin.h
        DESTINATION beeline/include/beeline COMPONENT python)
if(TARGET beeline_preload)
  install(TARGETS beeline_preload LIBRARY DESTINATION beeline/lib COMPONENT python)
endif()
if(TARGET beelined)
  install(TARGETS beelined RUNTIME DESTINATION beeline/bin COMPONENT python)
endif()
# The C++ package too. A wheel has no links, and one daemon is enough.
if(BEELINE_LIBRARY)
  install(CODE [[
    set(prefix ${CMAKE_INSTALL_PREFIX}/beeline/cpp)
    if(CMAKE_INSTALL_DO_STRIP)
      set(strip --strip)
    endif()
    execute_process(COMMAND ${CMAKE_COMMAND} --install ${CMAKE_CURRENT_LIST_DIR} --component cpp --prefix ${prefix} ${strip}
      OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
    file(GLOB_RECURSE not_wanted ${prefix}/libbeeline.so ${prefix}/beelined ${prefix}/beeline.pc)
    file(REMOVE ${not_wanted})
  ]] COMPONENT python)
endif()
