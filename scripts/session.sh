# shellcheck shell=bash
# What demo.sh, soak.sh and user_path.sh have in common. They source this file with `root`, the project's folder, set. It
# gives them the environment of env.sh, the built programs on PATH, a ROS domain of their own, a folder `scratch`, and
# processes that end with the script, however it ends.

: "${root:?}"
# shellcheck source=scripts/common.sh
source "$root/scripts/common.sh"
_xvla_forget_all
_xvla_locate "$root"
# shellcheck disable=SC2034 # read by the scripts that source this file
photos="$_xvla_photos"
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"

session="$(basename "$0" .sh)"
programs="${CARGO_TARGET_DIR:-$root/target}/release"
export PATH="$programs:$PATH"
# A domain of its own on this machine alone neither hears nor drives a robot nearby, nor the tests. It is held until the
# script ends.
coproc DOMAIN { exec python3 "$root/scripts/domain.py"; }
read -r ROS_DOMAIN_ID <&"${DOMAIN[0]}"
export ROS_DOMAIN_ID ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
if [[ "$ROS_DISTRO" == humble ]]; then
  export ROS_LOCALHOST_ONLY=1  # Humble has this variable instead.
fi
scratch="$(mktemp -d)"
export ROS_LOG_DIR="$scratch/log"
# The processes that end with the script, in this order.
processes=()

# end PID: interrupts a child process, and kills it if it still runs after two seconds.
end() {
  kill -INT "$1" 2> /dev/null || return 0
  for _ in {1..20}; do
    kill -0 "$1" 2> /dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$1" 2> /dev/null || true
}

# gone PID: takes a process that has ended out of those that end with the script, because its number may become another's.
gone() {
  local process kept=()
  for process in "${processes[@]}"; do
    [[ "$process" == "$1" ]] || kept+=("$process")
  done
  processes=("${kept[@]}")
}

clean_up() {
  trap - EXIT
  local process
  for process in "${processes[@]}"; do
    end "$process"
  done
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# fail REASON [LOG]: ends the script with the reason, and with the end of what a program said.
fail() {
  if [[ -n "${2:-}" ]]; then
    echo "$session: $1; the end of what it said:" >&2
    tail -n 20 "$2" >&2
  else
    echo "$session: $1" >&2
  fi
  exit 1
}

# first_of NODE OTHER LOG: waits until the other process ends, and returns its status. The node, which writes to LOG, must
# not end before it.
first_of() {
  local first="" status=0
  wait -n -p first "$1" "$2" || status=$?
  gone "$first"
  if [[ "$first" == "$1" ]]; then
    fail "xvla_node ended by itself with status $status" "$3"
  fi
  return "$status"
}

# end_cleanly NODE LOG: interrupts the node, which has to end with status 0.
end_cleanly() {
  end "$1"
  gone "$1"
  wait "$1" || fail "xvla_node did not end cleanly on SIGINT" "$2"
}

for program in xvla xvla_node; do
  [[ -x "$programs/$program" ]] || fail "$programs/$program is not built; run \`make build\`"
done
