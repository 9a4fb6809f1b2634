#!/usr/bin/env bash
# Preprocesses, trains, samples and evaluates on a Cloud TPU: one VM, or all VMs of a slice.
#
#   TPU=dit ZONE=us-east5-a TYPE=v5p-16 DISK=10.0.0.2:/share ./launch/tpu_vm.sh create
#   ./launch/tpu_vm.sh preprocess --config=configs/xl.py --input=/mnt/share/clips \
#       --output=/mnt/share/data
#   ./launch/tpu_vm.sh train --config=configs/xl.py --config.data.path=/mnt/share/data \
#       --workdir=/mnt/share/runs/xl --mesh=tpu,fsdp=8
#   ./launch/tpu_vm.sh sample --workdir=/mnt/share/runs/xl --prompt="a red boat at dawn"
#   ./launch/tpu_vm.sh delete
#
#   TPU      its name [video-dit]
#   ZONE     where it is [us-east5-a]
#   TYPE     accelerator type [v5p-8]
#   RUNTIME  image of the VMs [v2-alpha-tpuv5]
#   DISK     NFS share, server:/path, that all VMs mount as /mnt/share; holds data, workdir
#   SPOT     1 takes a preemptible one
#
# `train` stays until the run is finished: a TPU that was preempted is made anew, and the
# run goes on from its last checkpoint, as it does after a crash, until ten starts in a row
# have brought no new one; an installation that fails is tried again. While the cloud does
# not say what the TPU is, nothing is made or deleted. The XLA options that the figures of
# docs/performance.md need are in the program; nothing has to be exported.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TPU=${TPU:-video-dit} ZONE=${ZONE:-us-east5-a} TYPE=${TYPE:-v5p-8}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5} DISK=${DISK:-} SPOT=${SPOT:-}

tpu() {
  local verb=$1
  shift
  gcloud compute tpus tpu-vm "$verb" "$TPU" --zone="$ZONE" "$@"
}

archive=""
trap 'rm -f "$archive"' EXIT

everywhere() {
  tpu ssh --worker=all --command="$1"
}

# Steps of a function are chained: `set -e` is off in one whose status is asked for.
make() {
  tpu create --accelerator-type="$TYPE" --version="$RUNTIME" ${SPOT:+--spot}
}

# The project's files, without what .gitignore names (data, runs, environments).
pack() {
  if [ -e .git ]; then
    git ls-files -z --cached --others --exclude-standard |
      tar --null --files-from=- --ignore-failed-read -czf "$1"
  else
    tar --exclude='./.venv*' --exclude=./clips --exclude=./data --exclude=./out \
      --exclude=./runs --exclude=./try -czf "$1" .
  fi
}

installed=video_dit/.installed # left on each VM where all of `install` is done

install() {
  archive=${archive:-$(mktemp --suffix=.tar.gz)} || return
  pack "$archive" || return
  gcloud compute tpus tpu-vm scp "$archive" "$TPU:video_dit.tar.gz" --zone="$ZONE" \
    --worker=all || return
  everywhere "set -e
    mkdir -p video_dit && tar -xzf video_dit.tar.gz -C video_dit && cd video_dit
    curl -LsSf https://astral.sh/uv/install.sh | sh
    ~/.local/bin/uv venv --clear --python=3.12 .venv
    ~/.local/bin/uv pip install --python=.venv --constraint=constraints.txt -e '.[tpu]'
    rm ../video_dit.tar.gz" || return
  if [ -n "$DISK" ]; then
    everywhere "set -e
      sudo apt-get install -y nfs-common
      sudo mkdir -p /mnt/share
      mountpoint -q /mnt/share || sudo mount '$DISK' /mnt/share
      sudo chmod a+rwx /mnt/share" || return
  fi
  everywhere "touch $installed"
}

# The command with its arguments, quoted for the VMs' shell.
program() {
  printf 'cd video_dit && .venv/bin/python -m %s' "$1"
  shift
  printf ' %q' "$@" --distributed
}

# What the cloud says that the TPU is, GONE where there is none; nothing without an answer.
state() {
  local said
  if said=$(tpu describe --format='value(state)' 2>&1); then
    sed -nE '/^[A-Z_]+$/p' <<<"$said" | tail -n 1
  elif [[ $said == *NOT_FOUND* ]]; then
    echo GONE
  else
    echo "$said" >&2
  fi
}

# Comes back when the TPU is ready and has the environment; makes one where there is none.
ready() {
  local found failed=0
  while true; do
    found=$(state)
    echo "the TPU is ${found:-out of sight: the cloud does not say what it is}"
    case $found in
      READY)
        if everywhere "test -e $installed" || install; then return; fi
        if [ $((failed += 1)) = 5 ]; then
          echo "error: five times in a row the environment was not installed; see above." >&2
          exit 1
        fi
        sleep 30
        ;;
      GONE) make || sleep 300 ;;
      PREEMPTED | TERMINATED | STOPPED) tpu delete --quiet || sleep 30 ;;
      *) sleep 30 ;; # on its way to another state, or out of sight
    esac
  done
}

train() {
  local argument workdir=""
  for argument in "$@"; do
    case $argument in --workdir=*) workdir=${argument#*=} ;; esac
  done
  if [ -z "$workdir" ]; then
    echo "error: --workdir is missing. Give it, on the disk that all VMs share." >&2
    exit 2
  fi
  local starts=0
  local refused=video_dit/refused # left where the program ends with status 2: a mistake
  until everywhere "rm -f $refused
    (bash video_dit/launch/starts.sh $(printf %q "$workdir") $starts &&
      $(program video_dit.main "$@")) || { [ \$? != 2 ] || touch $refused; false; }" &&
    tpu ssh --worker=0 --command="test -e $(printf %q "$workdir")/finished.json"; do
    starts=$((starts + 1))
    echo "the run is not finished"
    ready
    if tpu ssh --worker=0 --command="test -e $refused"; then exit 2; fi
    sleep 30
  done
}

verb=${1:-}
[ $# -gt 0 ] && shift
case $verb in
  create) make && install ;;
  preprocess | sample | evaluate)
    everywhere "$(program "video_dit.$verb" --mesh=tpu "$@")"
    ;;
  train) train "$@" ;;
  delete) tpu delete --quiet ;;
  *)
    sed -n '2,/^set /p' "$0" | sed -n 's/^# \{0,1\}//p'
    exit 2
    ;;
esac
