#!/usr/bin/env bash
# Trains on GPU nodes under Slurm, one process a GPU; arguments go to the program.
#
#   sbatch --nodes=2 launch/slurm.sh --config=configs/xl.py --workdir=/shared/runs/xl \
#       --config.data.path=/shared/data --config.data.rows=64 --mesh=gpu,fsdp=16
#
# data.rows is a multiple of data x fsdp.
# Submit it from the project's folder, on a disk that all nodes see, as the workdir is. The
# environment is the one that `launch/setup.sh gpu` made there; PYTHON names another
# interpreter.
# Fifteen minutes before the time is over, and when the job is preempted, the run saves and
# ends; the job goes back to the queue and goes on from there. It does so after a crash too,
# until ten starts in a row have brought no new checkpoint. A run ends after its step: give
# one with steps of more than three minutes longer (sbatch --signal=TERM@SECONDS).
#
#SBATCH --job-name=video_dit
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@900
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=video_dit-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?"submit this file with sbatch"}"

workdir=""
for argument in "$@"; do
  case $argument in --workdir=*) workdir=${argument#*=} ;; esac
done
if [ -z "$workdir" ]; then
  echo "error: --workdir is missing. Give it, on a disk that all nodes see." >&2
  exit 2
fi

# Transfers hide behind the work that does not wait for them.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_latency_hiding_scheduler=true"

python=${PYTHON:-}
if [ -z "$python" ]; then
  for installed in .venv-*/installed.txt; do # whose last line says what for
    if [ "$(tail -n 1 "$installed" 2>/dev/null)" = "to gpu" ]; then
      python=${installed%/*}/bin/python
    fi
  done
fi
if [ -z "$python" ]; then
  echo "error: $PWD has no environment for GPUs. Run launch/setup.sh gpu there, or name an" \
    "interpreter with PYTHON." >&2
  exit 2
fi

launch/starts.sh "$workdir" "${SLURM_RESTART_COUNT:-0}"

status=0
# When a task ends, the others have two minutes to end too: srun returns the highest status,
# and one that it killed at once would hide that all refuse an input with 2. It does not take
# over what sbatch was told of the cores of a task.
srun --kill-on-bad-exit=0 --wait=120 \
  ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
  "$python" -m video_dit.main "$@" || status=$?

if [ "$status" = 0 ] && [ -e "$workdir/finished.json" ]; then
  exit 0
elif [ "$status" = 2 ]; then # a mistake, which another start would make again
  exit 2
fi
echo "ended with status $status before its end: back to the queue"
scontrol requeue "$SLURM_JOB_ID"
