#!/usr/bin/env bash
# Fuzzes what the guest and the launcher parse, with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer, and what
# the host parses of theirs, with fast-check (target `codec`).
#   scripts/fuzz.sh [seconds per target] [target …]     default: 1800 s, all targets
# Starts from native/fuzz/corpus/ and puts what reaches more code back there, minimised and bounded; a finding's input stays in
# native/build/fuzz/findings/. With --short nothing is kept: the corpus and 2 s of new inputs for each target.
# --out DIR: build there instead of in native/build/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

out=native/build/fuzz seconds=1800 keep=1
while [ $# -gt 0 ]; do
  case $1 in
    --short) seconds=2 keep= ;;
    --out) out=$2 && shift ;;
    *[!0-9]*) break ;;
    *) seconds=$1 ;;
  esac
  shift
done
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(guest-files guest-spawn guest-users guest-tree guest-mux guest-dns guest-denied launcher codec)

# The most that is kept of a target's corpus: the files, the bytes of all, and the bytes of one.
MOST_FILES=50 MOST_BYTES=40000 MOST_INPUT=4096

# The short form is a part of the tests, which install nothing.
if [ -n "$keep" ]; then need_libfuzzer; fi
has_libfuzzer || fail "clang or its libFuzzer is missing" "run scripts/test.sh, which installs it; on Debian: apt-get install clang libclang-rt-14-dev"

mkdir -p "$out/tmp"
out=$(realpath "$out")
native=()
for target in "${targets[@]}"; do [ "$target" = codec ] || native+=("$out/$target"); done
if [ ${#native[@]} -gt 0 ]; then
  step "building the fuzz targets"
  make -s -C native/fuzz -j"$(nproc)" OUT="$out" "${native[@]}"
fi

# Leaks are no fault: each request runs in a process that ends with it.
export ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16
# All but this and the directories that a target is given is read-only for it.
export TMPDIR=$out/tmp
status=0
# No file has more than four properties, which take turns.
codec() {
  WARREN_PROPERTY_SECONDS=$((seconds / 4 + 1)) npx vitest run test/guest/codec.test.ts test/fuzz/launcher-wire.test.ts \
    test/contracts/exec-frames.test.ts test/runtimes/containers/mux.test.ts --testTimeout=$((seconds * 1000 + 60000))
}

for target in "${targets[@]}"; do
  if [ "$target" = codec ]; then
    step "codec, $seconds s"
    codec || status=1
    continue
  fi
  kept=native/fuzz/corpus/$target found=$out/found/$target findings=$out/findings
  rm -rf "$found"
  mkdir -p "$kept" "$found" "$findings"
  step "$target, $seconds s"
  log=$out/$target.log
  if ! "$out/$target" -max_total_time="$seconds" -max_len=$MOST_INPUT -timeout=10 -rss_limit_mb=2048 -use_value_profile=1 \
    -print_final_stats=1 -artifact_prefix="$findings/$target-" "$found" "$kept" >"$log" 2>&1; then
    status=1
    cat "$log"
    printf 'error: %s has a finding\nhint:  %s/%s <the file under %s>\n' "$target" "$out" "$target" "$findings" >&2
    continue
  fi
  grep -E 'INITED|DONE|stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)' "$log" || true
  [ -n "$keep" ] || continue
  # A set that covers every edge, whatever how often: far fewer files than libFuzzer works with.
  merged=$out/merged/$target
  rm -rf "$merged"
  mkdir -p "$merged"
  "$out/$target" -set_cover_merge=1 -use_counters=0 -max_len=$MOST_INPUT "$merged" "$kept" "$found" >"$log.merge" 2>&1
  rm -rf "$kept"
  mkdir -p "$kept"
  # The longest go deepest.
  files=0 bytes=0
  while read -r size file; do
    if [ $files -ge $MOST_FILES ] || [ $((bytes + size)) -gt $MOST_BYTES ]; then continue; fi
    cp "$merged/$file" "$kept/"
    files=$((files + 1)) bytes=$((bytes + size))
  done < <(find "$merged" -type f -printf '%s %f\n' | sort -rn)
  echo "$target: keeps $files inputs, $bytes bytes"
done
exit $status
