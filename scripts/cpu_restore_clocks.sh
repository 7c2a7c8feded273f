#!/usr/bin/env bash
# Undo cpu_lock_clocks.sh: turbo, governors and frequencies as they were before the first lock, each read back.
set -euo pipefail
script=$0
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname "$0")/lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=lib/cpu.sh
. "$(dirname "$0")/lib/cpu.sh"

usage() {
  cat <<HELP
Usage: $script [OPTION...]
Put turbo, governors and frequencies of the CPUs back as they were before cpu_lock_clocks.sh.

HELP
  common_usage
}

# write_back: all that still differs
write_back() {
  local path value
  while read -r path value; do
    [ -z "$path" ] || set_value "$path" "$value" || true
  done <<<"$(differing "$state_file")"
}

parse_options "$@"
need_cpufreq
if [ ! -e "$state_file" ]; then
  say "Nothing to restore: $state_dir holds no state of cpu_lock_clocks.sh"
  exit
fi
need_cpu_permission
need_state_dir

write_back
if ! $dry_run; then
  write_back # a maximum below the minimum of the moment was refused the first time
  off=$(differing "$state_file")
  [ -z "$off" ] || fail "$NOT_AS_ASKED" "these would not go back: ${off//$'\n'/, }; the state is kept in $state_file"
fi
forget "$state_file"
$dry_run || say "Restored: turbo, governors and frequencies of the CPUs as they were"
