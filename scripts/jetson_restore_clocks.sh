#!/usr/bin/env bash
# Undo jetson_lock_clocks.sh: the clocks and the power mode as they were before the first lock, each read back.
set -euo pipefail
script=$0
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname "$0")/lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=lib/jetson.sh
. "$(dirname "$0")/lib/jetson.sh"

usage() {
  cat <<HELP
Usage: $script [OPTION...]
Put the clocks and the power mode of a Jetson back as they were before jetson_lock_clocks.sh.

HELP
  common_usage
}

# restore_from FILE: what counts is what reads back afterwards, unless jetson_clocks itself speaks of an error
restore_from() {
  local answer status=0
  [ -e "$1" ] || return 0
  answer=$(run jetson_clocks --restore "$1") || status=$?
  if [ "$status" -ne 0 ] && [[ $answer == *[Ee]rror* ]]; then
    fail "$FAILED" "jetson_clocks --restore $1 failed; it says: ${answer##*$'\n'}"
  fi
  ! $dry_run || say "$answer"
}

# not_restored FILE: frequencies that differ from what was stored; nothing where all agree
not_restored() {
  local path value now
  while IFS=: read -r path value; do
    case $path in
      */scaling_min_freq | */scaling_max_freq | */min_freq | */max_freq)
        now=$(value_of "$path")
        [ -z "$now" ] || [ "$now" = "$value" ] || say "$path is $now, was $value"
        ;;
    esac
  done <"$1"
}

parse_options "$@"
need_jetson
if [ ! -e "$mode_file" ]; then
  say "Nothing to restore: $state_dir holds no state of jetson_lock_clocks.sh"
  exit
fi
need_jetson_permission
need_state_dir
read_modes
old=$(<"$mode_file")

# First out of the lock, within the mode it was made in; then the mode; then the clocks within that.
restore_from "$in_mode_file"
now=$(current_mode)
if [ "$now" != "$old" ]; then
  set_mode "$old" || mode_not_set "$old" "the clocks are unlocked and the state is kept"
fi
restore_from "$before_file"
if ! $dry_run && [ -e "$before_file" ]; then
  off=$(not_restored "$before_file")
  [ -z "$off" ] || fail "$NOT_AS_ASKED" "restored, but it does not read back: ${off//$'\n'/, }; the state is kept in $state_dir"
fi
forget "$in_mode_file" "$before_file" "$mode_file"
$dry_run || say "Restored: power mode $old and the clocks as they were"
