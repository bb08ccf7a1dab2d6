#!/usr/bin/env bash
# Runs Warren's own tests, or any command, in an emulated machine with Debian's kernel and a pure cgroup v2 hierarchy.
# What it needs is installed, built once and cached; docs/testing-cgroup2.md says more.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh
. scripts/vm/image.sh
# stdout is for what the command says; the rest is talk.
exec {stdout}>&1 1>&2

usage() {
  cat <<'USAGE'
usage: scripts/vm/cgroup2.sh [options] [-- COMMAND [ARG…]]

Without a command: the conformance suite and the tests of the oci runtime.

  --timeout SECONDS   for the machine as a whole, boot included (default 7200)
  --memory MIB        of the machine (default 2048)
  --cpus N            of the machine (default 2)
  --no-build          take dist/ and native/build/ as they are
  --rebuild           make the guest's file system anew, with today's Debian packages
  -h, --help

The exit status is the command's; 124 when the time is up, 125 when the machine gave no result.
Environment: WARREN_VM_CACHE (default ${XDG_CACHE_HOME:-~/.cache}/warren-vm), WARREN_VM_SOURCES (a sources.list, instead of
the Debian sources of this machine's apt).
USAGE
}

timeout_s=7200 memory_mib=2048 cpus=2 build=yes rebuild=no command=()
while [ $# -gt 0 ]; do
  case $1 in
    --timeout | --memory | --cpus)
      [[ ${2:-} =~ ^[1-9][0-9]{0,6}$ ]] || fail "$1 needs a positive number"
      case $1 in --timeout) timeout_s=$2 ;; --memory) memory_mib=$2 ;; --cpus) cpus=$2 ;; esac
      shift
      ;;
    --no-build) build=no ;;
    --rebuild) rebuild=yes ;;
    -h | --help) usage >&"$stdout"; exit 0 ;;
    --) shift; command=("$@"); break ;;
    *) fail "unknown option: $1" "scripts/vm/cgroup2.sh --help" ;;
  esac
  shift
done
# Emulation is 10 to 20 times slower than the machine it runs on, so a test gets that much longer.
if [ ${#command[@]} -eq 0 ]; then
  command=(env NO_COLOR=1 node node_modules/vitest/vitest.mjs run
    --testTimeout=600000 --hookTimeout=900000 --teardownTimeout=120000
    --reporter=verbose --reporter=json --outputFile.json=/run/warren-results/report.json
    test/conformance test/runtimes/oci)
fi
[ "$timeout_s" -gt 120 ] || fail "--timeout must be more than 120 seconds: the machine needs time to boot"

[ "$(uname -m)" = x86_64 ] || fail "the guest is an x86-64 Debian with this machine's Node.js, and this machine is $(uname -m)"
need_node
need_programs git=git qemu-system-x86_64=qemu-system-x86 mkfs.ext4=e2fsprogs busybox=busybox-static setpriv=util-linux
if [ $build = yes ]; then
  need_programs gcc=gcc make=make musl-gcc=musl-tools /usr/include/seccomp.h=libseccomp-dev
  install_node_modules
  build_all
fi

mkdir -p "${WARREN_VM_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/warren-vm}"
cache=$(cd "$WARREN_VM_CACHE" && pwd)
# One machine at a time. Whoever holds the lock may also clear away what a killed run left.
exec 9>"$cache/lock"
flock --nonblock 9 || { echo "waiting for another run to end"; flock 9; }
rm -rf --one-file-system "$cache"/run.*
work=$(mktemp -d "$cache/run.XXXXXX")
machine=''
# shellcheck disable=SC2317  # called by the trap
finish() {
  if [ -n "$machine" ] && kill -0 "$machine" 2>/dev/null; then
    kill "$machine" 2>/dev/null || true
    wait "$machine" 2>/dev/null || true
  fi
  rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

ensure_base "$cache" "$work" $rebuild 9>&-

# The checkout as it is now: what git knows or would add, and what is built from it.
checkout_paths() {
  local path
  {
    if [ -e .git ]; then
      git -c safe.directory="$PWD" ls-files --cached --others --exclude-standard -z
      printf '%s\0' node_modules dist native/build
    else
      find . -mindepth 1 -maxdepth 1 -print0
    fi
  } | while IFS= read -r -d '' path; do
    if [ -e "$path" ] || [ -L "$path" ]; then printf '%s\0' "$path"; fi
  done
}
step "copying the checkout"
mkdir "$work/checkout"
checkout_paths | tar -c --null --files-from=- --ignore-failed-read --warning=no-file-changed | tar -x -C "$work/checkout"
checkout_mib=$(du -sm "$work/checkout" | cut -f1)
nice -n 10 mkfs.ext4 -q -F -O ^has_journal -L warren-checkout -d "$work/checkout" "$work/checkout.ext4" \
  "$((checkout_mib * 5 / 4 + 512))M" >/dev/null
rm -rf "$work/checkout"

cp -a "$base_dir/initrd" "$work/initrd"
mkdir "$work/initrd/job"
install -m 755 scripts/vm/initrd-init.sh "$work/initrd/init"
install -m 755 scripts/vm/guest-init.sh "$work/initrd/job/guest-init"
printf '%s\0' "${command[@]}" >"$work/initrd/job/argv"
# The command ends early enough for its results to be written before the machine's own time is up.
echo $((timeout_s - 90)) >"$work/initrd/job/timeout"
(cd "$work/initrd" && find . | busybox cpio -o -H newc) 2>/dev/null | gzip -1 >"$work/initrd.gz"
truncate -s 256M "$work/results.tar"

step "starting the machine: ${command[*]}"
last=$cache/last
rm -rf "$last"
mkdir "$last"
mkfifo "$work/output"
# Held open for reading and writing, so that the printer does not wait for a QEMU that never opens it.
exec {hold}<>"$work/output"
tee "$last/output.log" <"$work/output" >&"$stdout" {hold}>&- 9>&- &
printer=$!
# What is written to the shared root disk goes to a temporary file below TMPDIR. The machine dies with this script.
# Names are relative, since QEMU takes a comma in a path for the end of it.
ln -s "$base_dir/root.ext4" "$base_dir/vmlinuz" "$last/console.log" "$work"
TMPDIR=$work nice -n 10 env --chdir="$work" setpriv --pdeathsig TERM timeout --kill-after=10 "$timeout_s" \
  qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none -nic none \
  -machine q35 -accel tcg,thread=multi -cpu max -smp "$cpus" -m "$memory_mib" \
  -kernel vmlinuz -initrd initrd.gz -append "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on" \
  -drive file=root.ext4,format=raw,if=virtio,cache=unsafe,snapshot=on \
  -drive file=checkout.ext4,format=raw,if=virtio,cache=unsafe \
  -drive file=results.tar,format=raw,if=virtio,cache=unsafe \
  -serial file:console.log \
  -device virtio-serial-pci -chardev file,id=output,path=output -device virtserialport,chardev=output,name=warren.output \
  </dev/null {hold}>&- 9>&- &
machine=$!
machine_status=0
wait "$machine" || machine_status=$?
machine=''
exec {hold}>&-
wait "$printer" || true

step "outcome"
tar -x -f "$work/results.tar" -C "$last" --no-same-owner 2>/dev/null || true
if [ ! -s "$last/status" ]; then
  tail -n 20 "$last/console.log" 2>/dev/null || true
  if [ $machine_status = 124 ]; then
    echo "error: the machine was not done after $timeout_s s"
    exit 124
  fi
  echo "error: the machine ended without a result (QEMU's status is $machine_status)"
  echo "hint:  see $last/console.log"
  exit 125
fi
grep -ah 'warren-vm: ' "$last/console.log" || true
if [ -s "$last/left-behind" ]; then
  echo "left behind by the command:"
  sed 's/^/  /' "$last/left-behind"
fi
[ ! -s "$last/report.json" ] || node scripts/vm/summary.mjs "$last/report.json"
echo "kept: $last"
exit "$(<"$last/status")"
