# Runs a benchmark for a moment at a tiny size and demands a result that reads as JSON.
#   cmake -D BENCH=program -D JSON=file -P smoke.cmake

file(REMOVE ${JSON})
execute_process(COMMAND ${BENCH} --B 2 --L 6 --E 8 --heads 2 --blocks 1 --N 3 --threads 1 --warmup 0 --seconds 0.05
  --json ${JSON} COMMAND_ERROR_IS_FATAL ANY)
file(READ ${JSON} result)
foreach(key rows_per_second gflop_per_second gemm_gflop_per_second peak_memory_mib)
  string(JSON value GET "${result}" ${key})
  if(NOT value GREATER 0)
    message(FATAL_ERROR "${key} is ${value}, expected a number above 0")
  endif()
endforeach()
string(JSON median GET "${result}" ms median)
string(JSON count GET "${result}" repetitions)
string(JSON times LENGTH "${result}" all_ms)
if(NOT median GREATER 0 OR NOT count EQUAL times OR count LESS 3)
  message(FATAL_ERROR "median ${median} ms of ${count} repetitions, ${times} times listed")
endif()
