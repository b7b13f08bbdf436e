# What the C++ core needs from the system. All of it is in Debian (tools/apt.txt lists the packages);
# accelerator and network libraries are opened at run time and never looked for here.

find_package(Threads REQUIRED)
target_link_libraries(beeline_options INTERFACE Threads::Threads ${CMAKE_DL_LIBS})

find_path(MSGPACK_INCLUDE_DIR msgpack.hpp)
if(NOT MSGPACK_INCLUDE_DIR)
  message(FATAL_ERROR "msgpack.hpp not found: install libmsgpack-cxx-dev (see tools/apt.txt)")
endif()
find_path(JSON_INCLUDE_DIR nlohmann/json.hpp)
if(NOT JSON_INCLUDE_DIR)
  message(FATAL_ERROR "nlohmann/json.hpp not found: install nlohmann-json3-dev (see tools/apt.txt)")
endif()
target_include_directories(beeline_options SYSTEM INTERFACE ${MSGPACK_INCLUDE_DIR} ${JSON_INCLUDE_DIR})
target_compile_definitions(beeline_options INTERFACE MSGPACK_NO_BOOST)

if(BEELINE_TESTS)
  find_package(GTest REQUIRED)
  # Optional: property tests are written under `#if BEELINE_HAVE_RAPIDCHECK`.
  find_path(RAPIDCHECK_INCLUDE_DIR rapidcheck.h)
  find_library(RAPIDCHECK_LIBRARY rapidcheck)
endif()
