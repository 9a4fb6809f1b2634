#!/usr/bin/env bash
# Makes the environment, then runs the tests: all on up to four cores, or those that the
# arguments name, which go to pytest.
#
#   ./launch/test.sh
#   ./launch/test.sh tests/data -k pack
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" dev
cd "$ROOT"
export JAX_PLATFORMS=cpu
[ $# -gt 0 ] || set -- --numprocesses=auto --maxprocesses=4 --dist=loadfile
exec "$VIDEO_DIT_PYTHON" -m pytest "$@"
