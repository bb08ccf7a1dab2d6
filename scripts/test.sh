#!/usr/bin/env bash
# Installs what the tests need and runs them all: types, lint, layers, dead code, audit, native and TypeScript tests.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need_node
need_programs gcc=gcc make=make musl-gcc=musl-tools crun=crun runc=runc skopeo=skopeo umoci=umoci buildah=buildah \
  /usr/include/seccomp.h=libseccomp-dev bwrap=bubblewrap docker-registry=docker-registry tmux=tmux shellcheck=shellcheck \
  setpriv=util-linux newuidmap=uidmap /bin/busybox=busybox-static /usr/sbin/dockerd=docker.io docker=docker.io openssl=openssl curl=curl mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs \
  podman=podman slirp4netns=slirp4netns pasta=passt ip=iproute2 chromium=chromium ssh-agent=openssh-client
need_libfuzzer
scripts/install-runsc.sh || echo "note: no usable runsc: the tests of isolation gvisor are skipped"
[ "$(id -u)" = 0 ] || fail "the tests create real sandboxes, as root and as users that they make, and need root for it" "sudo scripts/test.sh"
mend_hybrid_cgroups
install_node_modules

# Side by side with each other and with the build: what one of them says is shown as a whole when all have ended.
checks=$(mktemp -d)
trap 'jobs -p | xargs -r kill 2>/dev/null || true; rm -rf "$checks"' EXIT
names=()
check() { # check NAME COMMAND...
  local name=$1
  shift
  names+=("$name")
  { if "$@" >"$checks/$name" 2>&1; then echo 0; else echo $?; fi >"$checks/$name.code"; } &
}
# shellcheck disable=SC2317  # called by name
lint() {
  npm run --silent lint && shellcheck -x -P SCRIPTDIR scripts/*.sh .ci/run
}
# shellcheck disable=SC2317  # called by name
audit() {
  local said
  if said=$(npm audit --audit-level=high 2>&1); then
    echo "nothing high"
  elif grep -q 'audit endpoint returned an error' <<<"$said"; then
    echo "not checked: the package registry configured here does not answer audits"
  else
    printf '%s\n' "$said"
    return 1
  fi
}
check "types" npm run --silent typecheck
check "lint" lint
check "layers" npm run --silent layers
check "dead code" npm run --silent deadcode
check "npm audit" audit
build_all
wait
status=0
for name in "${names[@]}"; do
  step "$name"
  cat "$checks/$name"
  code=$(cat "$checks/$name.code")
  [ "$code" = 0 ] || status=$code
done
[ "$status" = 0 ] || exit "$status"

step "tests"
results=$(mktemp)
trap 'rm -rf "$checks" "$results"' EXIT
status=0
npx vitest run --reporter=default --reporter=json --outputFile.json="$results" "$@" || status=$?
# shellcheck disable=SC2016  # expanded inside, not here
node -e '
  const r = JSON.parse(require("node:fs").readFileSync(process.argv[1], "utf8"));
  for (const file of r.testResults)
    for (const test of file.assertionResults)
      if (test.status === "pending" || test.status === "skipped") console.log(`skipped: ${test.fullName}`);
  // Last, where a reader of a log looks first, and where a log that was cut still has them.
  for (const file of r.testResults) {
    const name = require("node:path").relative(process.cwd(), file.name);
    if (file.status === "failed" && file.message) console.log(`failed: ${name}: ${file.message.slice(0, 600)}`);
    for (const test of file.assertionResults)
      if (test.status === "failed") console.log(`failed: ${name}: ${test.fullName}\n  ${(test.failureMessages[0] ?? "").slice(0, 600).replaceAll("\n", "\n  ")}`);
  }
  console.log(`warren: ${r.numPassedTests} passed, ${r.numFailedTests} failed, ${r.numPendingTests + r.numTodoTests} skipped`);
' "$results"
exit $status
