#!/usr/bin/env bash
# Installs what the tests need and runs them all: types, lint, layers, dead code, audit, native and TypeScript tests.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need_node
need_programs gcc=gcc make=make musl-gcc=musl-tools crun=crun runc=runc skopeo=skopeo umoci=umoci buildah=buildah \
  /usr/include/seccomp.h=libseccomp-dev bwrap=bubblewrap docker-registry=docker-registry tmux=tmux shellcheck=shellcheck \
  setpriv=util-linux newuidmap=uidmap /bin/busybox=busybox-static /usr/sbin/dockerd=docker.io docker=docker.io openssl=openssl curl=curl mkfs.ext4=e2fsprogs \
  podman=podman slirp4netns=slirp4netns pasta=passt ip=iproute2 chromium=chromium ssh-agent=openssh-client
need_libfuzzer
scripts/install-runsc.sh || echo "note: no usable runsc: the tests of isolation gvisor are skipped"
[ "$(id -u)" = 0 ] || fail "the tests create real sandboxes, as root and as users that they make, and need root for it" "sudo scripts/test.sh"
mend_hybrid_cgroups
install_node_modules
build_all

step "types"
npm run --silent typecheck
step "lint"
npm run --silent lint
shellcheck -x -P SCRIPTDIR scripts/*.sh .ci/run
step "layers"
npm run --silent layers
step "dead code"
npm run --silent deadcode
step "npm audit"
if audit=$(npm audit --audit-level=high 2>&1); then
  echo "nothing high"
elif grep -q 'audit endpoint returned an error' <<<"$audit"; then
  echo "not checked: the package registry configured here does not answer audits"
else
  printf '%s\n' "$audit"
  exit 1
fi
step "tests"
results=$(mktemp)
trap 'rm -f "$results"' EXIT
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
