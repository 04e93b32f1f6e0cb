#!/usr/bin/env bash
# Runs on a GPU what was built elsewhere (docs/gpu.md); compiles and installs nothing. Each takes at most 9 minutes:
#   bash benchmarks/gpu.sh tests               gpu_tests, then compute-sanitizer where it is there
#   bash benchmarks/gpu.sh kernels [FLAG...]   kernel_bench (with these flags), then PyTorch's attention
#   bash benchmarks/gpu.sh step [FLAG...]      run.py --device cuda (with these flags): whole steps beside PyTorch's
# Environment: BIN (build/cuda/bin) programs, PYTHON (python3) with PyTorch, RESULTS (benchmarks/results), COMMIT of the
# sources where git does not know it. A libcublasLt that the system lacks is taken from PyTorch's wheel, packages from
# build/gpu_python where it is there.
# Exit code: 0 good, 1 something failed, 2 wrong usage or a program is missing, 77 there is no GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=${1:-}
[ $# -eq 0 ] || shift
case $what in
  tests | kernels | step) ;;
  *) echo "usage: bash benchmarks/gpu.sh tests|kernels|step [FLAG...]" >&2; exit 2 ;;
esac
bin=${BIN:-build/cuda/bin}
python=${PYTHON:-python3}
results=${RESULTS:-benchmarks/results}
commit=()
[ -z "${COMMIT:-}" ] || commit=(--commit "$COMMIT")
for program in gpu_tests kernel_bench step_bench score_bench; do
  if [ ! -x "$bin/$program" ]; then
    echo "$bin holds no $program; docs/gpu.md says how to build it" >&2
    exit 2
  fi
done
mkdir -p "$results"
export PYTHONPATH=$PWD/build/gpu_python${PYTHONPATH:+:$PYTHONPATH}
export PYTHONDONTWRITEBYTECODE=1
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$PWD/build/gpu_inductor}

missing=$(ldd "$bin/kernel_bench" | sed -n 's/^[[:space:]]*\(libcublas[^ ]*\) => not found.*/\1/p' | head -n 1)
if [ -n "$missing" ]; then
  found=$("$python" - "$missing" <<'PY'
import pathlib, site, sys
folders = [*site.getsitepackages(), site.getusersitepackages()]
found = (str(path.parent) for folder in folders for path in pathlib.Path(folder).glob(f"nvidia/**/{sys.argv[1]}"))
print(next(found, ""))
PY
  )
  if [ -z "$found" ]; then
    echo "$missing is neither in the system nor in PyTorch's wheel" >&2
    exit 2
  fi
  export LD_LIBRARY_PATH=$found${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi

# Runs a command for at most so many seconds; whoever is stopped is named and counts as no failure.
status=0
within() {
  local seconds=$1 code=0
  shift
  timeout "$seconds" "$@" || code=$?
  if [ $code -eq 124 ]; then
    echo "stopped after $seconds s: $*"
  elif [ $code -eq 77 ]; then
    exit 77
  elif [ $code -ne 0 ]; then
    echo "exit code $code: $*"
    status=1
  fi
}

run_tests() {
  within 300 "$bin/gpu_tests"
  if ! command -v compute-sanitizer > /dev/null; then
    echo "compute-sanitizer is not there: memcheck, racecheck, synccheck and initcheck were not run"
    return
  fi
  for tool in memcheck racecheck synccheck initcheck; do
    within 55 compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/gpu_tests" "~[gpu_training]"
  done
}

case $what in
  tests)
    (run_tests; exit $status) 2>&1 | tee "$results/gpu_tests.txt"
    exit "${PIPESTATUS[0]}"
    ;;
  kernels)
    within 380 "$bin/kernel_bench" --minutes 6 --results "$results" ${commit[@]+"${commit[@]}"} "$@"
    if "$python" -c "import torch" 2> /dev/null; then
      within 150 "$python" benchmarks/peers/torch_attention.py --results "$results" ${commit[@]+"${commit[@]}"}
    else
      echo "$python has no PyTorch: its attention was not measured"
    fi
    ;;
  step)
    [ $# -gt 0 ] || set -- --only step --quick
    within 530 "$python" benchmarks/run.py --device cuda --build "$(dirname "$bin")" \
      --python "$(command -v "$python")" --minutes 8.5 --results "$results" ${commit[@]+"${commit[@]}"} "$@"
    ;;
esac
exit $status
