# Language level, warnings, optimisation and sanitizers, as the interface target `beeline_options`.
# Everything but the preload library links it: that one is never built with a sanitizer, because a
# sanitizer brings an allocator of its own.

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()
# CMake's RelWithDebInfo is -O2 -g -DNDEBUG; -g1 keeps line tables and backtraces at a quarter of the size.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

add_library(beeline_warnings INTERFACE)
target_compile_options(beeline_warnings INTERFACE -Wall -Wextra -Wshadow)
if(BEELINE_WERROR)
  target_compile_options(beeline_warnings INTERFACE -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  target_compile_options(beeline_warnings INTERFACE -Wthread-safety)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND BEELINE_SANITIZE)
  # GCC's guess is wrong about instrumented std::variant; the release build keeps the warning.
  target_compile_options(beeline_warnings INTERFACE -Wno-maybe-uninitialized)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND BEELINE_SANITIZE MATCHES "thread")
  # GCC says that TSan does not model atomic_thread_fence; the code pairs fences with atomics that it does model.
  target_compile_options(beeline_warnings INTERFACE -Wno-tsan)
endif()

add_library(beeline_options INTERFACE)
target_link_libraries(beeline_options INTERFACE beeline_warnings)
target_include_directories(beeline_options INTERFACE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
if(BEELINE_SANITIZE)
  string(REPLACE "," ";" sanitizers ${BEELINE_SANITIZE})
  foreach(sanitizer IN LISTS sanitizers)
    set(option -fsanitize=${sanitizer})
    if(sanitizer STREQUAL undefined)  # it nearly doubles the time that tests compile
      set(option $<$<NOT:$<BOOL:$<TARGET_PROPERTY:BEELINE_IS_TEST>>>:${option}>)
    endif()
    target_compile_options(beeline_options INTERFACE ${option})
  endforeach()
  target_compile_options(beeline_options INTERFACE -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(beeline_options INTERFACE -fsanitize=${BEELINE_SANITIZE})
endif()

# beeline_is_test(<target>): with UBSan it is compiled quickly, and without that: what headers have for tests alone is not
# looked at. Unoptimised tests are slow under TSan.
function(beeline_is_test target)
  if(BEELINE_SANITIZE MATCHES "undefined")
    set_target_properties(${target} PROPERTIES BEELINE_IS_TEST ON)
    target_compile_options(${target} PRIVATE -O0)
  endif()
endfunction()
