# Runs a benchmark for a moment at a tiny size and demands a result that reads as JSON; with a PEER, which the interpreter
# PYTHON runs, also that the peer computes the same.
#   cmake -D BENCH=program -D WORK=folder [-D PYTHON=python3 -D PEER=torch_step.py] -P smoke.cmake

file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})
set(sizes --B 4 --L 6 --E 8 --heads 2 --blocks 2 --N 3 --threads 1)
execute_process(COMMAND ${BENCH} ${sizes} --warmup 0 --seconds 0.05 --json ${WORK}/result.json
  COMMAND_ERROR_IS_FATAL ANY)
file(READ ${WORK}/result.json result)
foreach(key rows_per_second gflop_per_second gemm_gflop_per_second peak_memory_mib start_seconds)
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

execute_process(COMMAND ${BENCH} ${sizes} --dtype tf32 RESULT_VARIABLE code ERROR_VARIABLE line)
if(NOT code EQUAL 2 OR NOT line MATCHES "the CPU multiplies in fp32 or bf16")
  message(FATAL_ERROR "--dtype tf32 on the CPU: exit code ${code}, ${line}")
endif()

if(PYTHON)
  set(no_dropout)
  if(BENCH MATCHES "step_bench")
    set(no_dropout --dropout 0)
  endif()
  execute_process(COMMAND ${BENCH} ${sizes} ${no_dropout} --check ${WORK}/check COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${PYTHON} ${PEER} --threads 1 --check ${WORK}/check COMMAND_ERROR_IS_FATAL ANY)
endif()
