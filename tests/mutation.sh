#!/usr/bin/env bash
# Plants one fault at a time in a copy of the sources and requires that the op's test turns red.
#
#   bash tests/mutation.sh [--backend cpu|products|kernels|branches] [--only OP] [--jobs N]
#
# A mutant is a line of tests/mutants/BACKEND.sh: op, file, sed expression, what it breaks. Its test is tests/ops/OP_test.cpp,
# compiled for the CPU, or for the CUDA kernels on the emulator. The backend "branches" is what orders the two branches of a
# CUDA device: OP is train or cuda, its test tests/OP/branches_test.cpp, and CUDA's headers are needed (CUDA_HOME); "products" is
# what multiplies on the matrix units: OP is backend, its test tests/backend/products_test.cpp. The script fails if a mutant
# survives, if a sed expression changes nothing, if a mutant does not compile, or if a test is red without any fault. Prints a
# table "op, mutation, caught". Not part of CI: some 400 compilations.
set -u

{  # one group: read to its end before anything runs, so that editing the file does not disturb a run

root=$(cd "$(dirname "$0")/.." && pwd)
usage="usage: bash tests/mutation.sh [--backend cpu|products|kernels|branches] [--only OP] [--jobs N]"
only=""
jobs=$(nproc)
backends="cpu products kernels branches"
while [ $# -gt 0 ]; do
  case $1 in
    --backend) backends=${2:?--backend needs cpu, products, kernels or branches}; shift 2 ;;
    --only) only=${2:?--only needs an op}; shift 2 ;;
    --jobs) jobs=${2:?--jobs needs a number}; shift 2 ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/original/tests" "$work/results"
cp -r "$root/include" "$root/kernels" "$work/original/"
cp -r "$root"/tests/{ops,oracle,backend,branches,train,cuda,main.cpp} "$work/original/tests/"

eigen=$(pkg-config --cflags-only-I eigen3 2>/dev/null || echo -I/usr/include/eigen3)
flags=(-std=c++20 -O1 -w -fopenmp -DEIGEN_DONT_PARALLELIZE)
cxx=${CXX:-g++}
# What every test includes and no mutant changes, compiled once.
printf '#include <catch2/catch.hpp>\n#include <Eigen/Core>\n#include <Random123/philox.h>\n' > "$work/preamble.hpp"
"$cxx" "${flags[@]}" $eigen -x c++-header "$work/preamble.hpp" -o "$work/preamble.hpp.gch" || exit 1
"$cxx" "${flags[@]}" -c "$work/original/tests/main.cpp" -o "$work/main.o" || exit 1

mutants=()   # "backend \t op \t file \t sed \t what"
mutant() { [ -n "$only" ] && [ "$only" != "$1" ] || mutants+=("$backend"$'\t'"$1"$'\t'"$2"$'\t'"$3"$'\t'"$4"); }
for backend in $backends; do
  [ -f "$root/tests/mutants/$backend.sh" ] || { echo "$usage" >&2; exit 2; }
  source "$root/tests/mutants/$backend.sh"
done
[ ${#mutants[@]} -gt 0 ] || { echo "no mutants for '$only'" >&2; exit 2; }

# Builds and runs one test on a tree; 0 = green, 1 = red, 2 = does not compile.
run_test() {  # tree, backend, op, log
  local extra=() source="tests/ops/$3_test.cpp"
  case $2 in
    products) extra=(-march=native) source="tests/$3/products_test.cpp" ;;
    kernels) extra=(-DBLINKBERT_TEST_EMULATED -I"$1/kernels") ;;
    branches) extra=(-I"$1/kernels" -isystem "${CUDA_HOME:-/usr/local/cuda}/include") source="tests/$3/branches_test.cpp" ;;
  esac
  "$cxx" "${flags[@]}" "${extra[@]}" -include "$work/preamble.hpp" $eigen -I"$1/include" -I"$1" \
    -c "$1/$source" -o "$1/test.o" >"$4" 2>&1 || return 2
  "$cxx" -fopenmp "$1/test.o" "$work/main.o" -lboost_context -o "$1/test" >>"$4" 2>&1 || return 2
  OMP_WAIT_POLICY=passive timeout 300 "$1/test" --abort >>"$4" 2>&1 || return 1
}

try_mutant() {  # number, backend, op, file, sed expression
  local tree="$work/mutant$1" verdict
  cp -r "$work/original" "$tree"
  if ! sed -i "$5" "$tree/$4" 2>"$tree/log"; then
    verdict="BAD SED"
  elif cmp -s "$tree/$4" "$work/original/$4"; then
    verdict="CHANGES NOTHING"
  else
    run_test "$tree" "$2" "$3" "$tree/log"
    case $? in
      0) verdict="SURVIVED" ;;
      1) verdict="caught" ;;
      *) verdict="DOES NOT COMPILE" ;;
    esac
  fi
  echo "$verdict" > "$work/results/$1"
  rm -rf "$tree"
}

try_original() {  # backend, op
  local tree="$work/original_$1_$2"
  cp -r "$work/original" "$tree"
  run_test "$tree" "$1" "$2" "$tree/log" && echo green > "$work/results/$1_$2" || echo RED > "$work/results/$1_$2"
  rm -rf "$tree"
}

in_turn() {
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
  "$@" &
}

tests=$(printf '%s\n' "${mutants[@]}" | cut -f1,2 | sort -u)
while IFS=$'\t' read -r backend op; do in_turn try_original "$backend" "$op"; done <<< "$tests"
for i in "${!mutants[@]}"; do
  IFS=$'\t' read -r backend op file expression what <<< "${mutants[$i]}"
  in_turn try_mutant "$i" "$backend" "$op" "$file" "$expression"
done
wait

failed=0
printf '%-8s %-19s %-66s %s\n' backend op mutation caught
while IFS=$'\t' read -r backend op; do
  verdict=$(cat "$work/results/${backend}_$op")
  printf '%-8s %-19s %-66s %s\n' "$backend" "$op" "(none)" "$verdict"
  [ "$verdict" = green ] || failed=$((failed + 1))
  for i in "${!mutants[@]}"; do
    IFS=$'\t' read -r mutant_backend mutant_op file expression what <<< "${mutants[$i]}"
    [ "$mutant_backend $mutant_op" = "$backend $op" ] || continue
    verdict=$(cat "$work/results/$i")
    printf '%-8s %-19s %-66s %s\n' "$backend" "$op" "$what" "$verdict"
    [ "$verdict" = caught ] || failed=$((failed + 1))
  done
done <<< "$tests"
echo "${#mutants[@]} mutants, $failed failed"
[ "$failed" -eq 0 ]
exit $?
}
