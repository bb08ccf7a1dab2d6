# shellcheck shell=bash
# Shared by the scripts beside it: find what is missing on this machine, and install it where that is possible.
# Sourced, not run.

step() { printf '\n== %s\n' "$*"; }
fail() {
  printf 'error: %s\n' "$1" >&2
  [ -n "${2:-}" ] && printf 'hint:  %s\n' "$2" >&2
  exit 1
}

# Node 20.19 or newer: the oldest that our dependencies run on.
need_node() {
  command -v node >/dev/null || fail "Node.js is missing" "install Node.js 20.19 or newer, then run this again"
  node -e 'const [a,b]=process.versions.node.split(".").map(Number); process.exit(a>20||(a===20&&b>=19)?0:1)' ||
    fail "Node.js $(node --version) is too old" "install Node.js 20.19 or newer"
}

# need_programs program=debian-package ...: installs the packages whose program is missing.
# A name with a slash is a file to look for, any other is looked up on PATH.
need_programs() {
  local missing=() names=() pair program
  for pair in "$@"; do
    program=${pair%%=*}
    case $program in
      */*) [ -e "$program" ] && continue ;;
      *) command -v "$program" >/dev/null && continue ;;
    esac
    missing+=("${pair#*=}")
    names+=("$program")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    step "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
      apt-get update -qq
      apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    }
  elif command -v apt-get >/dev/null; then
    fail "missing: ${names[*]}" "sudo apt-get install ${missing[*]}"
  else
    fail "missing: ${names[*]}" "install these with this system's package manager (Debian calls them: ${missing[*]})"
  fi
}

# On hosts with one mount per cgroup v1 controller, crun refuses to work while the otherwise empty cgroup2 mount still
# carries a controller. Mounting that controller on v1 takes it away from v2.
mend_hybrid_cgroups() {
  local v2=/sys/fs/cgroup/unified controller
  [ "$(id -u)" = 0 ] && [ -r $v2/cgroup.controllers ] || return 0
  [ -d /sys/fs/cgroup/memory ] || return 0
  local controllers
  read -ra controllers <$v2/cgroup.controllers || true
  for controller in "${controllers[@]}"; do
    mkdir -p "/sys/fs/cgroup/$controller" 2>/dev/null &&
      mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" 2>/dev/null ||
      printf 'note: could not move cgroup controller %s to v1; runc will be used instead of crun\n' "$controller" >&2
  done
}

# npm ci, unless node_modules is already what package-lock.json says.
install_node_modules() {
  if [ node_modules/.package-lock.json -nt package-lock.json ]; then return 0; fi
  step "npm ci"
  npm ci --no-audit --no-fund --loglevel=error
  touch node_modules/.package-lock.json
}

# Builds native programs and TypeScript when a source is newer than the last build.
build_all() {
  local stamp=dist/.built
  if [ -e $stamp ] && [ -x native/build/warren-guest ] && [ -x native/build/warren-launcher ] && [ -x native/build/warren ] &&
    [ -z "$(find src native scripts/build.mjs package.json tsconfig.json tsconfig.build.json -newer $stamp -type f -not -path '*/build/*' -print -quit)" ]; then
    return 0
  fi
  step "building"
  npm run --silent build
  touch $stamp
}

# clang with its sanitizer and fuzzer runtimes, which Debian keeps in a package of their own.
has_libfuzzer() {
  # Where there is none, clang prints the name as it is.
  case $(clang -print-file-name="libclang_rt.fuzzer-$(uname -m).a" 2>/dev/null) in /*) ;; *) return 1 ;; esac
}
need_libfuzzer() {
  need_programs clang=clang make=make
  if has_libfuzzer; then return 0; fi
  need_programs "$(clang -print-resource-dir)/lib/linux/libclang_rt.fuzzer-$(uname -m).a=libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
}
