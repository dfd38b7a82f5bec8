#!/usr/bin/env bash
# Holds the node to what it promises of its commands over a long time: two cameras at 30 Hz, commands at 100 Hz, a backend
# that takes 350 ms and now and then a second more. `make soak` builds the programs first. Ends with a table, and with 1 if a
# promise was broken. What is given here goes to tools/soak.py: --seconds N or --minutes N.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=scripts/session.sh
source "$root/scripts/session.sh"

"$programs/xvla" checkpoint synth --preset tiny --action-mode franka_joint7 --out "$scratch/checkpoint" > /dev/null
"$programs/xvla_node" --ros-args --params-file "$root/tools/soak.yaml" -p "checkpoint:=$scratch/checkpoint" \
  > "$scratch/node.log" 2>&1 &
node=$!
processes+=("$node")
python3 "$root/tools/soak.py" --node "$node" "$@" &
soak=$!
processes=("$soak" "$node")

status=0
first_of "$node" "$soak" "$scratch/node.log" || status=$?
if ((status == 3)); then  # There was nothing to measure; perhaps the node knows why.
  fail "there was nothing to measure" "$scratch/node.log"
fi
end_cleanly "$node" "$scratch/node.log"
exit "$status"
