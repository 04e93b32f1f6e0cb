#!/usr/bin/env bash
# From recordings of blinks to drowsiness scores: installs what is missing, builds, pre-trains, fine-tunes twice (from
# the pre-trained backbone and from scratch), scores the held-out drivers, prints the results beside the baselines.
#
#   bash examples/quickstart.sh                                     on recordings of simulated drivers
#   DATA=file.csv CONFIG=file.toml bash examples/quickstart.sh      on a file of your own; CONFIG says what its columns are
#                                                                   (a pair: NAME_pretraining.toml finds NAME_finetuning.toml)
#   DATA=file.csv bash examples/quickstart.sh                       prints the [data] lines that CONFIG needs, exit code 2
#
# RUNS=folder puts the run folders elsewhere than runs/quickstart-<date>-<time>.
set -euo pipefail

# Paths are the caller's: they are made absolute before the working folder changes.
data=${DATA:+$(realpath -- "$DATA")} config=${CONFIG:+$(realpath -- "$CONFIG")}
runs=$(realpath -m -- "${RUNS:-$(dirname "${BASH_SOURCE[0]}")/../runs/quickstart-$(date +%Y%m%d-%H%M%S)}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source examples/packages.sh
without_cuda=()

# The [data] section for a CSV, guessed from its header; what no guess fits is left for the user to choose from.
suggest_data_section() {
  head -n 1 -- "$1" | awk '
    function quoted(name) { return "\"" name "\"" }
    {
      sub(/^\357\273\277/, ""); sub(/\r$/, ""); gsub(/"/, "")
      count = split($0, names, ",")
      for (i = 1; i <= count; ++i) {
        word = tolower(names[i])
        if (!recording && word ~ /recording|session|trial|video|drive$/) recording = names[i]
        else if (!driver && word ~ /driver|subject|participant|person|^id$/) driver = names[i]
        else if (!label && word ~ /kss|drows|sleep|label$/) label = names[i]
        else if (!quality && word ~ /quality/) quality = names[i]
        else if (word ~ /^(fold|blink|index|row|time|timestamp|frame)$/) other = other " " names[i]
        else features = features (features ? ", " : "") quoted(names[i])
      }
      print "[data]"
      print "recording = " quoted(recording ? recording : "?") "   # one value per recording, its rows together and in time order"
      print "driver = " quoted(driver ? driver : "?") "   # who drove"
      print (label ? "label = " quoted(label) : "# label = \"?\"") "   # drowsiness"
      if (quality) print "quality = " quoted(quality) "   # high or low"
      print "features = [" features "]   # keep only what describes a blink"
      if (other) print "# taken for bookkeeping, not for features:" other
    }'
}

for file in "$data" "$config"; do
  [ -z "$file" ] || [ -r "$file" ] || { echo "cannot read $file" >&2; exit 2; }
done
if [ -n "$data" ] && [ -z "$config" ]; then
  echo "DATA needs CONFIG=file.toml. For $data it may begin with these lines (check them; examples/configs/ has whole files):" >&2
  suggest_data_section "$data"
  exit 2
fi
if [ -z "$data" ] && [ -n "$config" ]; then
  echo "CONFIG without DATA: say DATA=file.csv, or leave both out for simulated drivers" >&2
  exit 2
fi

need_packages "${library_packages[@]}"
# Kernels for a GPU take minutes to compile and are not used here; a build that has them keeps them.
[ -e build/release/CMakeCache.txt ] || without_cuda=(-D BLINKBERT_CUDA=OFF)
cmake --preset release -D BLINKBERT_PROGRAMS=ON -D BLINKBERT_TESTS=OFF "${without_cuda[@]}" >&2
cmake --build --preset release --parallel "$(nproc)" \
  --target blinkbert_pretrain blinkbert_finetune blinkbert_score blinkbert_simulate >&2
bin=build/release/bin
mkdir -p "$runs"

# step NAME COMMAND...: runs it, keeps what it prints in $runs/NAME.txt, notes the seconds it took.
names=() seconds=()
step() {
  local name=$1 begin=$SECONDS
  shift
  echo "--- $name" >&2
  "$@" >"$runs/$name.txt"
  names+=("$name") seconds+=($((SECONDS - begin)))
}

if [ -z "$data" ]; then
  data=$runs/simulated_drivers.csv
  kind="synthetic data: recordings of simulated drivers"
  step simulate "$bin/simulate" --drivers 80 --seed 1 --out "$data"
  pretraining=(--config examples/configs/small_pretraining.toml)
  finetuning=(--config examples/configs/small_finetuning.toml)
else
  # A pair of files: NAME_pretraining.toml and NAME_finetuning.toml; otherwise one file for both.
  partner=${config/%pretraining.toml/finetuning.toml}
  [ -r "$partner" ] || partner=$config
  pretraining=(--config "$config") finetuning=(--config "$partner")
fi

step pretrain "$bin/pretrain" "${pretraining[@]}" --data "$data" --report --out "$runs/pretraining"
split=$runs/pretraining/split.json
step finetune-pretrained "$bin/finetune" "${finetuning[@]}" --data "$data" --split "$split" --report \
  --backbone "$runs/pretraining/checkpoints/best.safetensors" --out "$runs/finetuning-pretrained"
step finetune-from-scratch "$bin/finetune" "${finetuning[@]}" --data "$data" --split "$split" --report \
  --from-scratch --out "$runs/finetuning-from-scratch"
step score "$bin/score" --checkpoint "$runs/finetuning-pretrained/checkpoints/best.safetensors" \
  --data "$data" --out "$runs/scores.csv"

# The scores of the held-out drivers alone: those in the test list of the fine-tuning stage.
tr -d '\n' <"$split" | sed 's/.*"finetuning"//; s/.*"test" *: *\[\([^]]*\)\].*/\1/' | tr ',' '\n' | sed 's/^ *"//; s/" *$//' |
  awk -F, 'NR == FNR { held_out[$0]; next } FNR == 1 || $2 in held_out' - "$runs/scores.csv" >"$runs/held_out_scores.csv"

# Peak memory stands in each report under "time".
peak_of() {
  sed -n 's/.*"peak_memory_mib": *\([0-9]*\).*/\1/p' "$runs/$1/report.json" 2>/dev/null | head -n 1
}

echo
echo "${kind:-$data}"
for name in pretrain finetune-pretrained finetune-from-scratch; do
  echo "=== $name"
  cat "$runs/$name.txt"
  echo
done
declare -A folder=([pretrain]=pretraining [finetune-pretrained]=finetuning-pretrained
  [finetune-from-scratch]=finetuning-from-scratch)
printf '%-24s %8s %12s\n' step seconds 'peak, MiB'
for i in "${!names[@]}"; do
  run=${folder[${names[$i]}]:-}
  printf '%-24s %8s %12s\n' "${names[$i]}" "${seconds[$i]}" "${run:+$(peak_of "$run")}"
done
echo
echo "run folders and scores: $runs (scores of held-out drivers: held_out_scores.csv)"
echo "reports with figures, to open in a browser:"
for name in pretraining finetuning-pretrained finetuning-from-scratch; do echo "  $runs/$name/report.html"; done
