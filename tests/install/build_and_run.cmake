# Configures the stranger's PROJECT in WORK from nothing, builds it and runs what it built.
#   WAY        how it finds the library: find_package (in PREFIX), add_subdirectory or FetchContent (of BLINKBERT)
file(REMOVE_RECURSE ${WORK})
execute_process(COMMAND ${CMAKE_COMMAND} -S ${PROJECT} -B ${WORK} -G ${GENERATOR}
    -D CMAKE_CXX_COMPILER=${COMPILER} -D CMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}
    -D CMAKE_PREFIX_PATH=${PREFIX} -D WAY=${WAY} -D BLINKBERT=${BLINKBERT}
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${WORK} COMMAND_ERROR_IS_FATAL ANY)

file(GLOB built ${WORK}/run/*)
if(NOT built)
  message(FATAL_ERROR "nothing was built in ${WORK}/run")
endif()
foreach(program IN LISTS built)
  execute_process(COMMAND ${program} WORKING_DIRECTORY ${WORK} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
