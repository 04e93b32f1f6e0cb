#!/bin/sh
# Compiler launcher: runs the command, keeps what ptxas says about each kernel in FILE.o.ptxas, shows the rest.
for word in "$@"; do
  [ "${last:-}" = -o ] && object=$word
  last=$word
done
"$@" 2> "$object.stderr"
status=$?
grep -E "^ptxas info|bytes stack frame" "$object.stderr" > "$object.ptxas"
grep -vE "^ptxas info|bytes stack frame|^$" "$object.stderr" >&2
rm -f "$object.stderr"
exit $status
