#!/usr/bin/env bash
# The path of somebody who is new here, on the robot of the demo: record a bag of the running node, replay it on two
# backends, read the page, write calibration batches, measure them. Shows what a person would see, and exits with 1 and one
# line if anything is not as README says. `tests/user_path.sh FOLDER` keeps the page, the report and the batches there.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=scripts/session.sh
source "$root/scripts/session.sh"

# The robot moves for so long under each of three instructions, seconds.
seconds=1
results="${1:-$scratch}"
mkdir -p "$results"

# show COMMAND...: prints a command as it would be typed, and runs it.
show() {
  echo "\$ ${*//$scratch\//}"
  "$@" || fail "exit code $? of: $*"
}

# needs FILE PATTERN WHY: fails unless a line of the file matches.
needs() {
  grep -Eq "$2" "$1" || fail "$1: $3"
}

# lacks FILE PATTERN WHY: fails if a line of the file matches.
lacks() {
  ! grep -Eiq "$2" "$1" || fail "$1: $3"
}

echo "==> a bag of the demo"
show xvla checkpoint synth --preset tiny --action-mode franka_joint7 --out "$scratch/model"
parameters=(--params-file "$root/tools/demo.yaml" -p "checkpoint:=$scratch/model")
# The recorder ends when this pipe is closed, which none of the others may hold open.
mkfifo "$scratch/recording"
PYTHONPATH="$XVLA_ROSBAGS_PYTHONPATH:$PYTHONPATH" python3 "$root/tests/ros/recorder.py" --out "$scratch/drive" \
  front/image side/image joint_states instruction xvla/action_chunk xvla/stage_latency xvla/model_info /diagnostics \
  < "$scratch/recording" > "$scratch/recorded" &
recorder=$!
processes=("$recorder")
exec 3> "$scratch/recording"
xvla_node --ros-args "${parameters[@]}" > "$scratch/node.log" 2>&1 3>&- &
node=$!
processes=("$node" "$recorder")
# What the demo thinks of itself is no matter here: frames that are lost on a busy machine are missing in the bag as well.
python3 "$root/tools/demo_robot.py" --photos "$photos" --seconds $((3 * seconds)) > "$scratch/robot.log" 2>&1 3>&- ||
  tail -n 1 "$scratch/robot.log"
exec 3>&-
wait "$recorder" || fail "the recorder failed"
gone "$recorder"
end_cleanly "$node" "$scratch/node.log"
du -sh "$scratch/drive" | sed "s|$scratch/||"

echo "==> the same node again, in recorded time"
backends=libtorch,onnxruntime
if [[ -d "${XVLA_ONNXRUNTIME_LIB:-}" ]]; then
  show xvla export onnx --checkpoint "$scratch/model" --domain 0 --out "$scratch/policy.onnx"
  parameters+=(-p "engine.path:=$scratch/policy.onnx")
else
  backends=libtorch
fi
show xvla replay --bag "$scratch/drive" "${parameters[@]}" --backend "$backends" --compare \
  --html "$results/replay.html" --json "$results/replay.json" --out "$results/chunks.mcap"
page="$results/replay.html"
needs "$page" '<title>X-VLA replay' 'the title is missing'
for backend in ${backends//,/ }; do
  needs "$page" "$backend" "$backend is missing"
done
for word in e2e front side joint1; do
  needs "$page" "$word" "\`$word\` is missing"
done
needs "$page" '<svg' 'there are no plots'
lacks "$page" '<script|javascript:| on[a-z]+=' 'a script stands in it'
lacks "$page" '<(img|link|iframe|object|embed)|@import|url\(|(src|href)=.?(https?:)?//' 'something is loaded from elsewhere'
python3 - "$results/replay.json" << 'CHECK' || fail "the report does not say what it should"
import json, sys
report = json.load(open(sys.argv[1]))
assert not report["problems"], report["problems"]
for run in report["runs"]:
    assert run["chunks"] > 20 and run["failed"] == 0, run["backend"]
    assert (run["max_abs_delta"] or 0.0) < 1e-3, (run["backend"], run["max_abs_delta"])
share = report["comparison"]["same_share"]
assert share > 0.9, f"only {share:.3f} of the recorded chunks were chosen again"
CHECK
PYTHONPATH="$XVLA_ROSBAGS_PYTHONPATH:$PYTHONPATH" python3 "$root/tests/ros/read_bag.py" "$results/chunks.mcap" |
  grep -q '"/xvla/action_chunk"' || fail "rosbags finds no chunks in what the replay has written"

echo "==> batches of what the model saw, and how fast it is on them"
show xvla calib --bag "$scratch/drive" "${parameters[@]}" --out "$results/calib" --n 8
show xvla bench --checkpoint "$scratch/model" --calib "$results/calib" --iters 20 --warmup 2
echo "user_path: every step went as README says"
