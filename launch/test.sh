#!/usr/bin/env bash
# Makes the environment, then runs the tests; arguments go to pytest.
#
#   ./launch/test.sh
#   ./launch/test.sh tests/data -k pack
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" dev
cd "$ROOT"
export JAX_PLATFORMS=cpu
exec "$VIDEO_DIT_PYTHON" -m pytest "$@"
