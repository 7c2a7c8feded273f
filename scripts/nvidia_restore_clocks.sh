#!/usr/bin/env bash
# Undo nvidia_lock_clocks.sh: no lock on clocks, persistence mode as it was before the first lock.
set -euo pipefail
script=$0
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname "$0")/lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=lib/nvidia.sh
. "$(dirname "$0")/lib/nvidia.sh"

usage() {
  cat <<HELP
Usage: $script [OPTION...]
Unlock the clocks of the GPUs that nvidia_lock_clocks.sh locked, and put their persistence mode back.

HELP
  common_usage
}

# reset UUID OPTION
reset() {
  local status=0
  change "$1" "$2" || status=$?
  [ "$status" -ne 1 ] || refused "reset the clocks of $1"
}

# restore UUID PERSISTENCE
restore() {
  local switch now
  reset "$1" -rgc
  reset "$1" -rmc
  case $2 in
    Enabled) switch=1 ;;
    Disabled) switch=0 ;;
    *) return 0 ;;
  esac
  now=$(persistence "$1")
  [ "$now" != "$2" ] || return 0
  change "$1" -pm "$switch" || refused "set persistence mode of $1"
  if $dry_run; then return; fi
  now=$(persistence "$1")
  [ "$now" = "$2" ] ||
    fail "$NOT_AS_ASKED" "persistence mode of $1 was $2 and reads $now; the state is kept in $state_file"
}

parse_options "$@"
need_nvidia
if [ ! -e "$state_file" ]; then
  say "Nothing to restore: $state_dir holds no state of nvidia_lock_clocks.sh"
  exit
fi
need_state_dir

left='' problems=''
while read -r uuid mode; do
  status=0
  # In a shell of its own: what ends it for one GPU must not keep the others locked.
  { problem=$(restore "$uuid" "$mode" 2>&1 >&3) || status=$?; } 3>&1
  [ "$status" -ne 0 ] || continue
  left+=${left:+$'\n'}"$uuid $mode" problems+=${problems:+; }${problem#error: }
  [ "$status" -ne "$NOT_PERMITTED" ] || fail "$status" "${problem#error: }" # the same for all
done <"$state_file"
if [ -n "$left" ]; then
  remember "$state_file" "$left"
  fail "$FAILED" "$problems; the other GPUs are restored; run this again, or, if such a GPU is gone for good: sudo rm $(quoted "$state_file")"
fi
forget "$state_file"
$dry_run || say "Restored: no lock on the GPUs' clocks, persistence mode as it was"
