#!/usr/bin/env bash
# Makes the project's own Python environment where it is missing or out of date.
#
#   ./launch/setup.sh run     the package and what it needs to run on a CPU
#   ./launch/setup.sh gpu     and JAX's plugin for NVIDIA GPUs (CUDA 13)
#   ./launch/setup.sh tpu     and JAX's library for TPUs
#   ./launch/setup.sh dev     pytest, ruff and mypy too
#   ./launch/setup.sh all     and what setup.cfg's extras add for a machine without TPU or
#                             GPU, in an environment of its own, at constraints-all.txt
#
# It ends with the line that activates the environment. A script that sources it finds the
# interpreter in $VIDEO_DIT_PYTHON and the project's folder in $ROOT.
#
#   PYTHON   interpreter to make it of [the first of python3, python3.12, ... that fits]
#   VENV     folder of the environment [.venv-VERSION or .venv-all-VERSION in the project]

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

_fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# Prints the version, like 3.12, of an interpreter that can make an environment.
_fits() {
  "$1" -c '
import sys
if sys.version_info < (3, 11):
  sys.exit(f"is Python {sys.version.split()[0]}; 3.11 or later is needed")
try:
  import ensurepip, venv
except ImportError as error:
  sys.exit(f"cannot make environments ({error}); on Debian: apt install python3-venv")
print("%d.%d" % sys.version_info[:2])' 2>&1
}

_find_python() {
  local candidate answer reasons=""
  if [ -n "${PYTHON:-}" ]; then
    answer=$(_fits "$PYTHON") || _fail "PYTHON=$PYTHON: ${answer:-cannot be run}. Name another."
    _python=$PYTHON _version=$answer
    return
  fi
  for candidate in python3 python3.12 python3.11 python3.13 python3.14 python; do
    command -v "$candidate" >/dev/null || continue
    if answer=$(_fits "$candidate"); then
      _python=$candidate _version=$answer
      return
    fi
    reasons="$reasons"$'\n'"  $candidate: $(printf '%s' "$answer" | head -n 1)"
  done
  _fail "no Python of version 3.11 or later was found.$reasons"$'\n'"Install one, or name it: PYTHON=/path/to/python3.12 $0"
}

# Shows how far an installation is, from pip's log on standard input.
_progress() {
  awk -v log_file="$1" -v show="$([ -t 1 ] && echo 1)" '
    { print > log_file }
    /^Collecting / {
      count++
      if (show) { printf "\r  %d packages: %-40.40s", count, $2; fflush() }
    }
    /^Installing collected/ && show { printf "\r  %-60s", "unpacking"; fflush() }
    END { if (show) printf "\r%-70s\r", "" }'
}

_install() {
  local extra=$1 constraints=$2 log=$VENV/install.log begun=$SECONDS
  echo "installing into ${VENV#"$ROOT"/} what setup.cfg names, at the versions of $constraints (some minutes)"
  # The versions of that file, and those of constraints.txt for all that it leaves out.
  awk -F'==' 'NR == FNR { named[$1] } NR == FNR || !($1 in named)' \
    "$ROOT/$constraints" "$ROOT/constraints.txt" >"$VENV/constraints.txt"
  # As a URL: pip splits what the environment gives it at spaces.
  if ! PIP_CONSTRAINT=file://${VENV// /%20}/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$VIDEO_DIT_PYTHON" -m pip install --no-input --progress-bar off \
    --editable "$ROOT$extra" 2>&1 </dev/null | _progress "$log"; then
    tail -n 20 "$log" >&2
    _fail "the installation failed. All of its output is in $log."
  fi
  echo "installed in $((SECONDS - begun)) s"
}

_setup() {
  local purpose=$1 made wanted stamp extra="" constraints=constraints.txt name=.venv
  [ "$purpose" = all ] && constraints=constraints-all.txt name=.venv-all
  _find_python
  VENV=${VENV:-$ROOT/$name-$_version}
  [[ $VENV = /* ]] || VENV=$PWD/$VENV
  VIDEO_DIT_PYTHON=$VENV/bin/python
  stamp=$VENV/installed.txt
  wanted=$(echo "$ROOT on Python $_version" && cat "$ROOT"/{setup.cfg,constraints.txt,"$constraints"})
  if [ -f "$stamp" ] && "$VIDEO_DIT_PYTHON" -c '' 2>/dev/null; then
    # What is there for anything else has all that is needed to run.
    made=$(tail -n 1 "$stamp")
    case $purpose:$made in "run:to dev" | "run:to gpu" | "run:to tpu") purpose=${made#to } ;; esac
    [ "$(cat "$stamp")" = "$wanted"$'\n'"to $purpose" ] && return
  fi
  case $purpose in
    dev | gpu | tpu) extra="[$purpose]" ;;
    all) extra="[beam,buckets,dev,plan,remote,runners,shots]" ;;
  esac
  echo "environment: Python $_version ($_python) in $VENV"
  [[ $_version =~ ^3\.1[123]$ ]] ||
    echo "warning: Python $_version is untested; PYTHON=/path/to/python3.12 chooses another." >&2
  if ! "$VIDEO_DIT_PYTHON" -m pip --version >/dev/null 2>&1; then
    "$_python" -m venv --clear "$VENV" || _fail "$_python cannot make an environment in $VENV."
  fi
  rm -f "$stamp"
  _install "$extra" "$constraints"
  printf '%s\nto %s\n' "$wanted" "$purpose" >"$stamp"
}

case ${1:-} in
  run | gpu | tpu | dev | all) ;;
  *) _fail "$0: what for? Give run, gpu, tpu, dev or all." ;;
esac
set -o pipefail
_setup "$1"
if [[ ${BASH_SOURCE[0]} = "$0" ]]; then printf 'source %q\n' "$VENV/bin/activate"; fi
