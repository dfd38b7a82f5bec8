# shellcheck shell=bash
# Reads the options of a script. Sourced by those in this folder.

# Sets the variable of each option that takes a value, and sets those of flags to yes: "NAME NAME..." "FLAG FLAG..." ARGUMENT...
# In names of variables, `_` stands for `-`. Anything else ends the script with its usage.
read_options() {
  local values=" $1 " flags=" $2 " name
  shift 2
  while (($# > 0)); do
    name="${1#--}"
    if [[ "$1" == --help || "$1" == -h ]]; then
      usage
      exit
    elif [[ "$1" == "--$name" && "$flags" == *" $name "* ]]; then
      declare -g "${name//-/_}=yes"
    elif [[ "$1" == "--$name" && "$values" == *" $name "* && $# -gt 1 ]]; then
      declare -g "${name//-/_}=$2"
      shift
    else
      usage >&2
      exit 2
    fi
    shift
  done
}
