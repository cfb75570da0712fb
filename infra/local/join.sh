#!/usr/bin/env bash
# Join this machine to the stack of another, as a node of its Ray cluster, or leave it:
#     infra/local/join.sh HEAD [flags of `ray start`]
#     infra/local/join.sh leave
# join.py beside this says more. Needs the project's environment here: make setup.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH=$root
exec "$root/.venv/bin/python" -m infra.local.join "$@"
