# shellcheck shell=bash disable=SC2034,SC2154 # variables shared with common.sh and the scripts
# What locking and restoring a Jetson share. Sourced after common.sh.

need_jetson() {
  local name folder is_gpu='(^|\.)(gpu(-gpc-[0-9]+)?|g[a-z]1[01]b)$'
  gpu=
  for folder in $(folders '/sys/class/devfreq/*'); do
    name=${folder##*/}
    if [[ $name =~ $is_gpu ]]; then
      gpu=$folder
      break
    fi
  done
  if [ -z "$gpu" ] || ! command -v nvpmodel >/dev/null || ! command -v jetson_clocks >/dev/null; then
    fail "$NO_SUCH_CONTROL" "this is no Jetson: nvpmodel, jetson_clocks or the GPU in $sysroot/sys/class/devfreq is missing"
  fi
  mode_file=$state_dir/jetson.mode
  before_file=$state_dir/jetson.clocks-before
  in_mode_file=$state_dir/jetson.clocks-in-mode
}

need_jetson_permission() {
  $dry_run || [ -w "$sysroot$gpu/min_freq" ] || not_permitted "set the clocks"
}

# read_modes: fills mode_ids and mode_names from nvpmodel.conf
read_modes() {
  local conf=$sysroot/etc/nvpmodel.conf text link
  local line=$'\n''<[[:blank:]]*POWER_MODEL[[:blank:]]+ID=([0-9]+)[[:blank:]]+NAME=([^[:space:]>]+)'
  mode_ids=() mode_names=()
  # On a board it is a link to an absolute path, which is meant below the sysroot.
  link=$(readlink "$conf") || link=
  [[ $link != /* ]] || conf=$sysroot$link
  [ -r "$conf" ] || fail "$NO_SUCH_CONTROL" "$conf can't be read: the power modes are not known"
  text=$'\n'$(<"$conf")
  while [[ $text =~ $line ]]; do
    mode_ids+=("${BASH_REMATCH[1]}")
    mode_names+=("${BASH_REMATCH[2]}")
    text=${text#*"${BASH_REMATCH[0]}"}
  done
  [ ${#mode_ids[@]} -gt 0 ] || fail "$NO_SUCH_CONTROL" "$conf names no power mode"
}

# id_of NAME: an exact name's id
id_of() {
  local index
  for index in "${!mode_names[@]}"; do
    [ "${mode_names[index]}" != "$1" ] || say "${mode_ids[index]}"
  done
}

# current_mode: the name that nvpmodel says is on
current_mode() {
  local answer line='NV Power Mode:[[:blank:]]*([^[:space:]]+)'
  answer=$(nvpmodel -q </dev/null 2>&1) || true
  if [[ $answer =~ $line ]]; then
    say "${BASH_REMATCH[1]}"
  elif $dry_run; then
    say unknown # on some releases only root may ask
  else
    fail "$FAILED" "nvpmodel -q does not tell the power mode; it says: ${answer##*$'\n'}"
  fi
}

# set_mode NAME: by its name, and believe only what reads back. Leaves nvpmodel's last words in mode_answer.
set_mode() {
  local id
  id=$(id_of "$1")
  [ -n "$id" ] || fail "$FAILED" "$sysroot/etc/nvpmodel.conf has no power mode $1 any more"
  if $dry_run; then
    run nvpmodel -m "$id"
    return
  fi
  mode_answer=$(run nvpmodel -m "$id") || true
  [ "$(current_mode)" = "$1" ]
}

# reboot_declined: whether set_mode failed for the question that is never answered
reboot_declined() { [[ $mode_answer == *[Rr]eboot* || $mode_answer == *REBOOT* ]]; }

# mode_not_set NAME WHAT: says why set_mode failed, and ends
mode_not_set() {
  if reboot_declined; then
    fail "$NEEDS_REBOOT" "power mode $1 needs a reboot; $2; type: sudo nvpmodel -m $(id_of "$1")   (it asks and reboots), then run this again"
  fi
  fail "$FAILED" "nvpmodel did not set power mode $1; $2; it says: ${mode_answer##*$'\n'}"
}
