#!/usr/bin/env bash
# Shows the node at work: a tiny checkpoint, xvla_node, and a separate process that plays the robot over real ROS 2
# topics. `make demo` builds the programs first. The demo ends by itself. It exits with 1 and says why if something is
# missing.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=scripts/session.sh
source "$root/scripts/session.sh"

echo "==> a tiny checkpoint with random weights: what it does means nothing, how it runs does" >&2
"$programs/xvla" checkpoint synth --preset tiny --action-mode franka_joint7 --out "$scratch/checkpoint"

echo "==> xvla_node (ROS_DOMAIN_ID=$ROS_DOMAIN_ID)" >&2
"$programs/xvla_node" --ros-args --params-file "$root/tools/demo.yaml" -p "checkpoint:=$scratch/checkpoint" \
  > "$scratch/node.log" 2>&1 &
node=$!
processes+=("$node")

echo "==> a robot: two cameras at 30 Hz, joints that follow the commands, a changing instruction" >&2
python3 "$root/tools/demo_robot.py" --photos "$photos" --arm "$@" &
robot=$!
processes=("$robot" "$node")

first_of "$node" "$robot" "$scratch/node.log" || fail "not everything happened that should" "$scratch/node.log"
end_cleanly "$node" "$scratch/node.log"
