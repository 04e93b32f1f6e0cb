#!/usr/bin/env bash
# Installs what is missing, builds, runs every test, prints `N passed, N failed` (and `, N skipped`).
#   bash tests/run.sh [--preset release|portable|sanitize]
# Exit code: 0 all passed, 1 a test failed or none ran or the build failed, 2 wrong usage or missing packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source examples/packages.sh

preset=release
case "$#:${1:-}" in
  0:) ;;
  2:--preset) preset=$2 ;;
  *) echo "usage: bash tests/run.sh [--preset release|portable|sanitize]" >&2; exit 2 ;;
esac
case $preset in
  release | portable | sanitize) ;;
  *) echo "unknown preset $preset; presets: release, portable, sanitize" >&2; exit 2 ;;
esac

need_packages "${library_packages[@]}" "${test_packages[@]}"
jobs=$(nproc)
cmake --preset "$preset" -D BLINKBERT_PROGRAMS=ON -D BLINKBERT_TESTS=ON -D BLINKBERT_BENCHMARKS=ON \
  -D BLINKBERT_CUDA=AUTO
cmake --build --preset "$preset" --parallel "$jobs"

results=$PWD/build/$preset/tests.xml
rm -f "$results"
status=0
ctest --preset "$preset" --parallel "$jobs" --output-junit "$results" || status=$?

# The totals of the whole run stand in the first element of the file.
total() { sed -n "s/^[[:space:]]*$1=\"\([0-9]*\)\".*/\1/p" "$results" | head -n 1; }
tests=$(total tests) failed=$(total failures) skipped=$(total skipped) disabled=$(total disabled)
skipped=$((skipped + disabled))
passed=$((tests - failed - skipped))
line="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || line+=", $skipped skipped"
echo "$line"
if [ "$status" -ne 0 ] || [ "$failed" -ne 0 ] || [ "$passed" -eq 0 ]; then exit 1; fi
