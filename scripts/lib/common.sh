# shellcheck shell=bash disable=SC2034,SC2154 # variables shared with the scripts
# What the clock scripts share: options, messages, state on disk, values in /sys. Sourced, not run.

readonly FAILED=1 WRONG_USE=2 NOT_PERMITTED=3 NO_SUCH_CONTROL=4 NEEDS_REBOOT=5 NOT_AS_ASKED=6
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C

dry_run=false
sysroot=/
state_dir=

say() { printf '%s\n' "$*"; }

# fail STATUS MESSAGE
fail() {
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

# not_permitted WHAT: the one line a user needs who is not root. Uses the command line as it was given.
not_permitted() {
  fail "$NOT_PERMITTED" "not permitted to $1; type: sudo $(quoted "$script" "${given[@]}")"
}

# quoted WORD...: a command to type
quoted() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./,:=+@-]+$ ]] || word=$(printf '%q' "$word")
    line+=" $word"
  done
  say "${line# }"
}

# parse_options ARGUMENT...: the options of every script; what is left goes to own_option NAME VALUE of the script.
parse_options() {
  given=("$@")
  while [ $# -gt 0 ]; do
    local name=$1 value=
    case $name in
      -h | --help) usage && exit 0 ;;
      --dry-run)
        dry_run=true
        shift
        continue
        ;;
      --*=*) value=${name#*=} name=${name%%=*} ;;
      *)
        [ $# -ge 2 ] || fail "$WRONG_USE" "'$name' is no option or lacks its value; type: $script --help"
        value=$2
        shift
        ;;
    esac
    shift
    case $name in
      --sysroot) sysroot=$value ;;
      --state-dir) state_dir=$value ;;
      *) own_option "$name" "$value" || fail "$WRONG_USE" "unknown option '$name'; type: $script --help" ;;
    esac
  done
  [ -d "$sysroot" ] || fail "$WRONG_USE" "--sysroot '$sysroot' is no folder; give the one the machine's / is mounted at"
  sysroot=${sysroot%/}
  state_dir=${state_dir:-$sysroot/var/lib/pomt-edge}
}

# own_option: a script with options of its own replaces this.
own_option() { return 1; }

common_usage() {
  cat <<'HELP'
  --dry-run         print each command, change nothing; needs no root
  --state-dir DIR   where the state to restore is kept (default: /var/lib/pomt-edge below the sysroot)
  --sysroot DIR     where the machine's / is mounted (default: /)
  --help            this text

Exit status: 0 done, 1 failed, 2 wrong use, 3 not permitted, 4 this machine has no such control,
5 the power mode needs a reboot, 6 the machine does not read back as asked
HELP
}

# run COMMAND...: a command that changes the machine. No terminal, so that no question of its is ever answered.
run() {
  if $dry_run; then
    say "+ $(quoted "$@")"
  else
    "$@" </dev/null 2>&1
  fi
}

# --- State: whole files, on the disk before anything they describe is changed.

# remember FILE TEXT
remember() {
  if $dry_run; then
    say "+ remember in $1: ${2/$'\n'*/ …}"
    return
  fi
  printf '%s\n' "$2" >"$1.new"
  keep "$1"
}

# keep FILE: FILE.new is complete; make it FILE, whether or not the power fails now.
keep() {
  sync "$1.new"
  mv -f "$1.new" "$1"
  sync "$state_dir"
}

# forget FILE...: in this order.
forget() {
  local file
  for file in "$@"; do
    run rm -f "$file.new" "$file"
  done
  run sync "$state_dir"
}

need_state_dir() {
  if $dry_run; then return; fi
  mkdir -p "$state_dir" 2>/dev/null || true
  [ -w "$state_dir" ] || not_permitted "write to $state_dir"
}

# --- Values: files below the sysroot that hold one line.

# value_of PATH: its line; empty where it can't be read
value_of() {
  local line=
  { read -r line <"$sysroot$1"; } 2>/dev/null || true
  printf '%s' "$line"
}

# set_value PATH VALUE: write it unless it is that already. Fails quietly: what counts is what reads back.
set_value() {
  [ "$(value_of "$1")" != "$2" ] || return 0
  if $dry_run; then
    say "+ echo $2 > $sysroot$1"
  else
    { printf '%s\n' "$2" >"$sysroot$1"; } 2>/dev/null || return 1
  fi
}

# folders PATTERN: those below the sysroot that match, one per line, as absolute paths of the machine
folders() {
  local folder
  for folder in "$sysroot"$1; do
    [ ! -d "$folder" ] || say "${folder#"$sysroot"}"
  done
}
