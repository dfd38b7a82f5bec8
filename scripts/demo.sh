#!/usr/bin/env bash
# Shows the node at work: a tiny checkpoint, xvla_node, and a separate process that plays the robot over real ROS 2
# topics. `make demo` builds the programs first. The demo ends by itself. It exits with 1 and says why if something is
# missing.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=scripts/common.sh
source "$root/scripts/common.sh"
_xvla_forget_all
_xvla_locate "$root"
photos="$_xvla_photos"
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"

programs="${CARGO_TARGET_DIR:-$root/target}/release"
for program in xvla xvla_node; do
  if [[ ! -x "$programs/$program" ]]; then
    echo "demo: $programs/$program is not built; run \`make demo\`" >&2
    exit 1
  fi
done

# The demo uses a ROS domain of its own on this machine alone, so that it neither hears nor drives a robot nearby.
export ROS_DOMAIN_ID=$(($$ % 100 + 1)) ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
if [[ "$ROS_DISTRO" == humble ]]; then
  export ROS_LOCALHOST_ONLY=1  # Humble has this variable instead.
fi
scratch="$(mktemp -d)"
export ROS_LOG_DIR="$scratch/log"
node="" robot=""

# end PID: interrupts a child process, and kills it if it still runs after two seconds.
end() {
  [[ -n "$1" ]] && kill -0 "$1" 2> /dev/null || return 0
  kill -INT "$1" 2> /dev/null || true
  for _ in {1..20}; do
    kill -0 "$1" 2> /dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$1" 2> /dev/null || true
}

clean_up() {
  trap - EXIT
  end "$robot"
  end "$node"
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "==> a tiny checkpoint with random weights: what it does means nothing, how it runs does" >&2
"$programs/xvla" checkpoint synth --preset tiny --action-mode franka_joint7 --out "$scratch/checkpoint"

echo "==> xvla_node (ROS_DOMAIN_ID=$ROS_DOMAIN_ID)" >&2
"$programs/xvla_node" --ros-args --params-file "$root/tools/demo.yaml" -p "checkpoint:=$scratch/checkpoint" \
  > "$scratch/node.log" 2>&1 &
node=$!

echo "==> a robot: two cameras at 30 Hz, joint states at 50 Hz, a changing instruction" >&2
python3 "$root/tools/demo_robot.py" --photos "$photos" "$@" &
robot=$!

first="" status=0
wait -n -p first "$node" "$robot" || status=$?
if [[ "$first" == "$node" ]]; then
  node=""
  echo "demo: xvla_node ended by itself with status $status; the end of what it said:" >&2
  tail -n 20 "$scratch/node.log" >&2
  exit 1
fi
robot=""
if ((status != 0)); then
  echo "demo: the end of what xvla_node said:" >&2
  tail -n 20 "$scratch/node.log" >&2
  exit 1
fi

end "$node"
if [[ "$(wait "$node" && echo clean)" != clean ]]; then
  echo "demo: xvla_node did not end cleanly on SIGINT; the end of what it said:" >&2
  tail -n 20 "$scratch/node.log" >&2
  exit 1
fi
node=""
