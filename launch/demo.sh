#!/usr/bin/env bash
# From rendered clips to generated and measured video, on eight simulated devices.
#
#   ./launch/demo.sh            everything, in 12 minutes on two cores, or 20 on busy ones
#   ./launch/demo.sh --quick    everything at lower quality, in three to five
#   ./launch/demo.sh --output=FOLDER    somewhere else than out/demo
#
# Each stage is a command of the project and is shown before it runs. Safe to stop and to
# run again: a finished stage is reused, a stopped one goes on, and a changed command,
# config or version redoes its stage and all later ones.
set -euo pipefail

preset="" autoencoder_preset=demo clips=2000 prompts=96
out=out/demo
for argument in "$@"; do
  case $argument in
    --quick) preset=:quick autoencoder_preset=demo_quick clips=600 prompts=64 ;;
    --output=?*) out=${argument#--output=} ;;
    -h | --help)
      sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
      exit
      ;;
    *)
      echo "error: $argument: there is no such argument. There are --quick and --output=FOLDER." >&2
      exit 2
      ;;
  esac
done

begun=$SECONDS
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" run
cd "$ROOT"
export JAX_PLATFORMS=cpu PYTHONUNBUFFERED=1
records=$out/stages
mkdir -p "$records"
if command -v flock >/dev/null; then
  exec 9>"$records/lock"
  flock -n 9 || {
    echo "error: $out: another demo, or a stage that one has left behind, is at work there." >&2
    exit 1
  }
fi

child=""
# Passes a signal on to the stage, which may save before it ends, and ends the demo.
stop() {
  trap '' INT TERM
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
  [ -z "$child" ] || wait "$child" || true
  printf '\nstopped in "%s"; the same command goes on from there\n' "$stage" >&2
  exit 130
}
trap stop INT TERM

# Prints a config file's values, those whose keys match a pattern.
settings() { # file:preset pattern
  "$VIDEO_DIT_PYTHON" -c '
import importlib, sys
from video_dit import __version__, config
file, _, preset = sys.argv[1].partition(":")
experiment = importlib.import_module(file.removesuffix(".py").replace("/", "."))
print("video_dit", __version__)
print(config.to_text(config.parse(experiment.get_config(preset))), end="")' "$1" |
    grep -E "^(video_dit |$2)"
}

number=0 stage="the environment" summary=""

# Runs one stage, unless it is done: its name, the settings that it depends on, its last
# output, all of its outputs, then its command behind --.
run() {
  local depends=$2 last=$3 record wanted old outputs=() start=$SECONDS
  number=$((number + 1)) stage=$1
  shift 3
  while [ "$1" != -- ]; do outputs+=("$1") && shift; done
  shift
  record=$records/$number-${stage// /-}.txt
  wanted=$(printf '%s\n%s' "$*" "$depends")
  old=$([ ! -f "$record" ] || cat "$record")
  printf '\n== %d. %s\n$ python %s\n' "$number" "$stage" "$*"
  if [ "$old" = "$wanted"$'\ndone' ] && [ -e "$last" ]; then
    echo "finished before: reused"
    summary+=$(printf '%-24s reused' "$stage")$'\n'
    return
  fi
  if [ "$old" != "$wanted" ]; then
    # New, changed or lost: nothing that was made from here on holds.
    if [ -n "$old" ] && [ "$old" != "$wanted"$'\ndone' ]; then
      echo "made anew, for these settings have changed:"
      diff <(echo "${old%$'\n'done}") <(echo "$wanted") | grep '^[<>]' | head -n 6 || true
    fi
    local later
    for ((later = number; later < 10; later++)); do rm -f "$records/$later"-*; done
    rm -rf "${outputs[@]}"
    printf '%s\n' "$wanted" >"$record"
  else
    echo "was stopped before: goes on"
  fi
  "$VIDEO_DIT_PYTHON" "$@" </dev/null &
  child=$!
  local status=0
  wait "$child" || status=$?
  child=""
  if [ "$status" != 0 ] || [ ! -e "$last" ]; then
    echo "error: the stage '$stage' ended with status $status and without ${last}." >&2
    exit 1
  fi
  printf '%s\ndone\n' "$wanted" >"$record"
  echo "== $stage took $((SECONDS - start)) s"
  summary+=$(printf '%-24s %4d s' "$stage" $((SECONDS - start)))$'\n'
}

media='objective|media\.|autoencoder\.|dit\.patch'
autoencoder=configs/autoencoder.py:$autoencoder_preset
demo=(
  --config=configs/demo.py$preset
  --config.autoencoder.checkpoint="$out/autoencoder/autoencoder"
)
data=--config.data.path=$out/data
training='[a-df-rt-z]|seed' # all but evaluate and sample

run "render clips" "" "$out/media.json" "$out/media" "$out/media.json" "$out/prompts.jsonl" -- \
  -m video_dit.media.shapes --output="$out/media" --clips=$clips --prompts=$prompts

run "preprocess pixels" "$(settings $autoencoder "$media")" \
  "$out/data/pixels/dataset_info.json" "$out/data" -- \
  -m video_dit.preprocess --config=$autoencoder --input="$out/media" --output="$out/data"

run "train the autoencoder" "$(settings $autoencoder "$training")" \
  "$out/autoencoder/finished.json" "$out/autoencoder" -- \
  -m video_dit.main --config=$autoencoder "$data" --workdir="$out/autoencoder" \
  --mesh=cpu:8

run "preprocess latents" "$(settings configs/demo.py$preset "$media|text\.")" \
  "$out/data/latents/dataset_info.json" "$out/data/latents" "$out/data/text" -- \
  -m video_dit.preprocess "${demo[@]}" --input="$out/media" --output="$out/data"

# fsdp: the eight devices share the optimizer's work, which each would do whole otherwise.
run "train the transformer" "$(settings configs/demo.py$preset "$training")" \
  "$out/run/finished.json" "$out/run" -- \
  -m video_dit.main "${demo[@]}" "$data" --workdir="$out/run" --mesh=cpu:8,fsdp=8

run "sample" "$(settings configs/demo.py$preset 'sample\.')" \
  "$out/samples/samples.jsonl" "$out/samples" -- \
  -m video_dit.sample "${demo[@]}" "$data" --workdir="$out/run" --mesh=cpu:8 \
  --prompts="$out/prompts.jsonl" --output="$out/samples"

run "evaluate" "$(settings configs/demo.py$preset 'evaluate\.')" \
  "$out/contact_sheet.png" "$out/report.html" "$out/evaluation.json" "$out/contact_sheet.png" -- \
  -m video_dit.evaluate "${demo[@]}" "$data" --workdir="$out/run" --mesh=cpu:8 \
  --samples="$out/samples" --output="$out"

# What the processors gave, which on a shared machine is less than time passed.
times >"$records/times"
given=$(awk 'NR == 2 { split($1 "m" $2, t, /[ms]+/); print int(60 * (t[1] + t[3]) + t[2] + t[4]) }' \
  "$records/times")
printf '\n%s%-24s %4d s, %d s of processor time\n\n' \
  "$summary" "all, with the set-up" $((SECONDS - begun)) "$given"
"$VIDEO_DIT_PYTHON" - "$out/evaluation.json" <<'END'
import json
import sys

found = json.load(open(sys.argv[1], encoding="utf-8"))
for name, share in found["measures"].items():
  print(f"{name:<10} right in {share['right']} of {share['n']} held-out prompts")
END
printf '\n'
printf '%s\n' "$out/report.html" "$out/evaluation.json" "$out/contact_sheet.png"
