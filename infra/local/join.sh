#!/usr/bin/env bash
# Join this machine to the stack of another, as a node of its Ray cluster:
#     infra/local/join.sh HEAD [flags of `ray start`]
# HEAD is the machine, as ssh knows it, on which `make stack ARGS="--workers 0 --host ADDRESS"` ran.
# The servers there listen on loopback: they are reached through a tunnel of ssh, at the same
# addresses as there. Ray's own traffic does not go through it: both machines must reach each other.
# Needs the project's environment here (make setup), and ssh without a password.
set -euo pipefail

head=${1:?usage: infra/local/join.sh HEAD [flags of ray start]}
shift
home=${STAGEFLOW_HOME:-$HOME/.stageflow}
ray=$(cd "$(dirname "$0")/../.." && pwd)/.venv/bin/ray

mkdir -p "$home"
(umask 077 && ssh "$head" "cat .stageflow/stack/node.sh" >"$home/node.sh")
# shellcheck source=/dev/null
. "$home/node.sh"

tunnels=()
for port in $STACK_PORTS; do
    tunnels+=(-L "127.0.0.1:$port:127.0.0.1:$port")
done
ssh -f -N -o ExitOnForwardFailure=yes -o ServerAliveInterval=15 "${tunnels[@]}" "$head"
exec "$ray" start --address="$STACK_HEAD" --disable-usage-stats "$@"
