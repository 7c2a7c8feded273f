#!/usr/bin/env bash
# Builds an engine of every graph beside this script and times them in turn. Needs bash, coreutils and trtexec alone.
set -euo pipefail
export LC_ALL=C

readonly FAILED=1 WRONG_USE=2
readonly WARM_UP_MS=500 OLD_WORKSPACE_MIB=1024
script=$0
rounds=${ROUNDS:-5}
duration_s=3
graphs=() float32_layers=() notes=() builds_json=() runs_json=()
target='' precision='' typed='' tensorrt_least='' workspace_mib='' shapes=''
trtexec='' known_flags='' major='' minor='' version='' power_mode=''
rounds_done=0
failed=false

say() { printf '%s\n' "$*"; }

fail() { # STATUS MESSAGE
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

note() {
  say "note: $1"
  notes+=("$1")
}

usage() {
  cat <<'HELP'
usage: bash run_trtexec.sh [--rounds N] [--duration S]

Builds an engine of every graph of this folder on this board, times them in turn, and writes results/.
Engines are kept in engines/ and built once; results of an earlier run are moved to results-1, results-2, …

  --rounds N     how often every graph is timed (default: $ROUNDS, else 5)
  --duration S   seconds of each time (default: 3)
  --help         this text

trtexec is $TRTEXEC, else the one on PATH, else /usr/src/tensorrt/bin/trtexec.
Exit status: 0 all graphs built and timed, 1 something failed, 2 wrong use
HELP
}

parse_options() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) usage && exit 0 ;;
      --rounds | --duration)
        [ $# -ge 2 ] || fail "$WRONG_USE" "'$1' lacks its value; type: bash $script --help"
        if [ "$1" = --rounds ]; then rounds=$2; else duration_s=$2; fi
        shift 2
        ;;
      *) fail "$WRONG_USE" "unknown option '$1'; type: bash $script --help" ;;
    esac
  done
  local value
  for value in "$rounds" "$duration_s"; do
    [[ $value =~ ^[1-9][0-9]{0,4}$ ]] || fail "$WRONG_USE" "'$value' is no whole number above 0; type: bash $script --help"
  done
}

# --- What is to be run

check_files() {
  sha256sum --check --strict --quiet SHA256SUMS >&2 ||
    fail "$FAILED" "files of this folder differ from what was exported (see above): copy it here again, whole"
}

read_settings() {
  local key value
  while read -r key value; do
    case $key in
      target) target=$value ;;
      precision) precision=$value ;;
      typed) typed=$value ;;
      tensorrt_least) tensorrt_least=$value ;;
      workspace_mib) workspace_mib=$value ;;
      shapes) shapes=$value ;;
      float32_layer) float32_layers+=("$value") ;;
      graph) graphs+=("$value") ;;
    esac
  done <settings.txt
}

# --- trtexec and its flags

find_trtexec() {
  local installed=/usr/src/tensorrt/bin/trtexec
  trtexec=${TRTEXEC:-$(command -v trtexec || echo "$installed")}
  [ "${trtexec#/}" != "$trtexec" ] || trtexec=$PWD/$trtexec
  # A folder is executable, too.
  if ! [ -f "$trtexec" ] || ! [ -x "$trtexec" ]; then
    fail "$FAILED" "no program '$trtexec'; give where it is: TRTEXEC=/path/to/trtexec bash $script"
  fi
}

# The banner is [TensorRT v8201] for 8.2.1, [TensorRT v100300] for 10.3.0.
read_version() {
  local help
  help=$("$trtexec" --help 2>&1 || true)
  [[ $help =~ TensorRT\ v([0-9.]+) ]] || fail "$FAILED" "'$trtexec --help' does not tell the version of TensorRT"
  local digits=${BASH_REMATCH[1]} patch
  if [[ $digits =~ ^([0-9]+)\.([0-9]+)\.([0-9]+) ]]; then
    major=${BASH_REMATCH[1]} minor=${BASH_REMATCH[2]} patch=${BASH_REMATCH[3]}
  elif [[ $digits =~ ^([0-9])([0-9])([0-9][0-9])$ || $digits =~ ^([0-9][0-9])([0-9][0-9])([0-9][0-9])$ ]]; then
    major=$((10#${BASH_REMATCH[1]})) minor=$((10#${BASH_REMATCH[2]})) patch=$((10#${BASH_REMATCH[3]}))
  else
    fail "$FAILED" "'$trtexec --help' tells the version as '$digits', which this script cannot read"
  fi
  version=$major.$minor.$patch
  known_flags=$help
}

# knows FLAG: whether this trtexec lists it, at the start of a line of its help; prose may name flags of other versions.
knows() { [[ $known_flags =~ (^|$'\n')[[:space:]]*"$1"([=,[:space:]]|$) ]]; }

# older_than MAJOR.MINOR
older_than() { ((major < ${1%%.*} || (major == ${1%%.*} && minor < ${1#*.}))); }

check_version() {
  if older_than "$tensorrt_least"; then
    # No parser of TensorRT 8 checks the opset: it would misread the graph, not refuse it.
    fail "$FAILED" "this folder was made for $target, TensorRT $tensorrt_least or newer, and this board has $version: \
make one for this board's TensorRT"
  fi
  # Graphs for int8 carry their scales, whatever they were made for.
  if [ "$typed" = no ] && [ "$precision" != fp32 ] && [ "$precision" != int8 ] && ((major >= 11)); then
    fail "$FAILED" "TensorRT $version takes $precision from the graph alone, and this folder, made for $target, leaves \
it to a flag: make one for a newer target"
  fi
}

build_flags=() time_flags=() profile_flags=()

# TensorRT's defaults changed from version to version: what bears on the times is told, whatever they are.
choose_flags() {
  if ! knows --memPoolSize; then
    # Before 8.4 the limit is 16 MiB unless told otherwise; later it is the board's memory.
    build_flags+=("--workspace=${workspace_mib:-$OLD_WORKSPACE_MIB}")
  elif [ -n "$workspace_mib" ]; then
    build_flags+=("--memPoolSize=workspace:$workspace_mib")
  fi
  if knows --skipInference; then build_flags+=(--skipInference); else build_flags+=(--buildOnly); fi
  choose_precision
  # Without it an engine tells the names of its layers alone, and not what they run in.
  ! knows --profilingVerbosity || build_flags+=(--profilingVerbosity=detailed)
  [ -z "$shapes" ] || build_flags+=("--shapes=$shapes")

  local common=("--warmUp=$WARM_UP_MS" "--duration=$duration_s" --iterations=10 --avgRuns=10)
  [ -z "$shapes" ] || common+=("--shapes=$shapes")
  local flag
  for flag in --useSpinWait --noDataTransfers; do
    # Where it is not listed, it is what this version does without being told (11 and newer).
    ! knows "$flag" || common+=("$flag")
  done
  time_flags=("${common[@]}")
  profile_flags=("${common[@]}" --dumpProfile)
  ! knows --useCudaGraph || time_flags+=(--useCudaGraph)
  # A graph is one launch, in which no layer can be timed.
  ! knows --noCudaGraph || profile_flags+=(--noCudaGraph)
}

choose_precision() {
  ! knows --noTF32 || build_flags+=(--noTF32)
  if [ "$typed" = yes ]; then
    if ((major < 11)); then
      knows --stronglyTyped || fail "$FAILED" "TensorRT $version has no --stronglyTyped, which this folder's graphs need"
      build_flags+=(--stronglyTyped)
    fi
    return
  fi
  [ "$precision" != fp32 ] && ((major < 11)) || return 0
  knows "--$precision" || fail "$FAILED" "TensorRT $version has no --$precision: make a folder of another precision"
  build_flags+=("--$precision")
  [ ${#float32_layers[@]} -gt 0 ] || return 0
  if knows --layerPrecisions && knows --precisionConstraints; then
    local layers
    layers=$(printf ',%s:fp32' "${float32_layers[@]}")
    build_flags+=(--precisionConstraints=obey "--layerPrecisions=${layers#,}")
  else
    note "TensorRT $version cannot keep single layers in float32: tokens may be chosen in $precision"
  fi
}

# --- JSON, which this board may have nothing to write with

json() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  printf '"%s"' "${text//[[:cntrl:]]/ }"
}

json_list() { # ITEM...: of JSON already
  local joined
  joined=$(printf ',\n    %s' "$@")
  if [ $# -gt 0 ]; then printf '[%s\n  ]' "${joined#,}"; else printf '[]'; fi
}

# --- Work

# why LOG: the first error that trtexec told, or its last line
why() {
  local line last=
  while read -r line; do
    case $line in
      *'[E]'*)
        say "${line#*\[E\] }"
        return
        ;;
      ?*) last=$line ;;
    esac
  done <"$1"
  say "$last"
}

engine_of() { # GRAPH: the file that an engine of this graph, made here with these flags, is kept in
  local name=$1 key
  key=$({ sha256sum <"$name.onnx" && say "$version" "$(uname -n)" "${build_flags[@]}"; } | sha256sum)
  say "engines/$name-${key:0:16}.engine"
}

build() { # GRAPH
  local name=$1 engine log=results/$1.build.log status=ok reason='' began=$SECONDS
  engine=$(engine_of "$name")
  if [ -s "$engine" ]; then
    status=kept
    say "$name: engine kept"
  else
    say "$name: building an engine (minutes)"
    if ! "$trtexec" "--onnx=$name.onnx" "--saveEngine=$engine.partial" "--timingCacheFile=engines/timing-$version.cache" \
      "${build_flags[@]}" >"$log" 2>&1 || ! [ -s "$engine.partial" ]; then
      status=failed reason=$(why "$log")
      failed=true
      say "$name: the build failed: $reason (see $log)"
      rm -f "$engine.partial"
    else
      mv "$engine.partial" "$engine"
    fi
  fi
  builds_json+=("{\"graph\": $(json "$name"), \"status\": \"$status\", \"seconds\": $((SECONDS - began)), \
\"why\": $(json "$reason")}")
  [ "$status" != failed ]
}

# run GRAPH WHAT FILE FLAG...: one run of an engine that leaves FILE
run() {
  local name=$1 what=$2 file=results/$3 log=results/${3%.json}.log status=ok reason=''
  shift 3
  if ! "$trtexec" "--loadEngine=$(engine_of "$name")" "$@" >"$log" 2>&1 || ! [ -s "$file" ]; then
    status=failed reason=$(why "$log")
    failed=true
    say "$name: $what failed: $reason (see $log)"
  fi
  runs_json+=("{\"graph\": $(json "$name"), \"what\": $(json "$what"), \"file\": $(json "${file#results/}"), \
\"status\": \"$status\", \"why\": $(json "$reason")}")
}

time_it() { # GRAPH ROUND
  run "$1" times "$1.$2.times.json" "--exportTimes=results/$1.$2.times.json" "${time_flags[@]}"
}

profile() { # GRAPH
  local flags=("--exportProfile=results/$1.profile.json" "${profile_flags[@]}")
  ! knows --exportLayerInfo || flags+=("--exportLayerInfo=results/$1.layers.json")
  run "$1" profile "$1.profile.json" "${flags[@]}"
}

set_aside() {
  [ -e results ] || return 0
  local number=1
  while [ -e "results-$number" ]; do number=$((number + 1)); done
  mv results "results-$number"
  say "the results of an earlier run are in results-$number now"
}

write_run() { # STATUS
  local sum item notes_json=()
  sum=$(sha256sum <manifest.json)
  for item in "${notes[@]}"; do notes_json+=("$(json "$item")"); done
  cat >results/.run.json.partial <<JSON
{
  "schema": 1,
  "manifest_sha256": "${sum%% *}",
  "tensorrt": "$version",
  "trtexec": $(json "$trtexec"),
  "build_flags": $(json "${build_flags[*]}"),
  "time_flags": $(json "${time_flags[*]}"),
  "warm_up_ms": $WARM_UP_MS,
  "status": "$1",
  "rounds": $rounds,
  "rounds_done": $rounds_done,
  "written": "$(date +%Y-%m-%dT%H:%M:%S%z)",
  "uname": $(json "$(uname -srm)"),
  "power_mode": $(json "$power_mode"),
  "notes": $(json_list "${notes_json[@]}"),
  "builds": $(json_list "${builds_json[@]}"),
  "runs": $(json_list "${runs_json[@]}")
}
JSON
  mv results/.run.json.partial results/run.json
}

main() {
  parse_options "$@"
  find_trtexec
  cd "$(dirname "$script")"
  check_files
  read_settings
  read_version
  check_version
  choose_flags
  ! command -v nvpmodel >/dev/null || power_mode=$(nvpmodel -q 2>/dev/null || true)
  say "TensorRT $version, $precision; graphs: ${#graphs[@]}, rounds: $rounds"
  set_aside
  mkdir -p engines results

  local name built=() round place
  for name in "${graphs[@]}"; do
    ! build "$name" || built+=("$name")
  done
  local count=${#built[@]}
  for ((round = 1; round <= rounds && count > 0; round++)); do
    say "round $round of $rounds"
    # The first graph, the unreduced model, opens every round and closes the last: the others are held against it.
    time_it "${built[0]}" "$round"
    for ((place = 0; place < count - 1; place++)); do
      time_it "${built[1 + (place + round - 1) % (count - 1)]}" "$round"
    done
    # A run of hours that is cut off can be imported up to here.
    rounds_done=$round
    write_run running
  done
  [ "$count" -lt 2 ] || time_it "${built[0]}" "$round"
  for name in "${built[@]}"; do
    profile "$name"
  done
  write_run "done"

  say "Copy this folder back to where pomt-edge is installed and type there: pomt-edge import $(basename "$PWD")"
  ! $failed || fail "$FAILED" "not every graph was built and timed, see above; results/ has the others"
}

main "$@"
