#!/usr/bin/env bash
# From a fresh machine to a running sandbox. Run it again whenever you like: it only does what is still missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need_node
need_programs gcc=gcc make=make musl-gcc=musl-tools crun=crun runc=runc skopeo=skopeo umoci=umoci \
  /usr/include/seccomp.h=libseccomp-dev newuidmap=uidmap
mend_hybrid_cgroups
install_node_modules
build_all

warren=(dist/cli/warren)
step "what this machine can do"
"${warren[@]}" doctor

step "a first sandbox"
name="hello-$$"
trap '"${warren[@]}" rm "$name" >/dev/null 2>&1 || true' EXIT
run() {
  local word
  printf '\n$ npx warren'
  for word in "$@"; do
    case $word in
      *[!A-Za-z0-9_./:=-]*) printf ' %s' "${word@Q}" ;;
      *) printf ' %s' "$word" ;;
    esac
  done
  echo
  "${warren[@]}" "$@"
}
# An ordinary user can limit nothing without cgroups, which doctor has just told how to get.
unlimited=()
[ "$(id -u)" = 0 ] || unlimited=(--unlimited)
run create --name "$name" "${unlimited[@]}"
# shellcheck disable=SC2016  # expanded inside, not here
run exec "$name" -- sh -c 'echo "hello from inside: I am $(id -un) on $(hostname), pid 1 is $(cat /proc/1/comm)"'
run exec "$name" -- sh -c 'echo "what is written here stays here" > /root/note; cat /root/note'
run ls
run rm "$name"

cat <<'NEXT'

It works. Try next:
  npx warren create --name box                # a sandbox that stays until you remove it
  npx warren exec -it box -- bash             # a terminal in it
  npx warren cp ./README.md box:/root/        # files in and out
  npx warren serve --port 8080                # the REST API on http://127.0.0.1:8080/api/v1
  npx warren --help
NEXT
