# beeline_layer(<name> [DEPENDS <layer>...] [EXCLUDE <subfolder>...])
#
# Declares `beeline_<name>`, a static library of every .cc file below the calling folder but those in the
# excluded subfolders. New sources are found by the next build. A layer without sources is an interface
# library, so that the layers above it configure and link all the same.
function(beeline_layer name)
  cmake_parse_arguments(PARSE_ARGV 1 LAYER "" "" "DEPENDS;EXCLUDE")
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  foreach(folder IN LISTS LAYER_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "^${CMAKE_CURRENT_SOURCE_DIR}/${folder}/")
  endforeach()
  list(TRANSFORM LAYER_DEPENDS PREPEND beeline_)
  if(sources)
    add_library(beeline_${name} STATIC ${sources})
    target_link_libraries(beeline_${name} PUBLIC ${LAYER_DEPENDS} beeline_options)
  else()
    add_library(beeline_${name} INTERFACE)
    target_link_libraries(beeline_${name} INTERFACE ${LAYER_DEPENDS} beeline_options)
  endif()
endfunction()
