#!/usr/bin/env bash
# Times Warren and its peers side by side in one run of about ten minutes. The table goes to stdout, every sample to
# bench/results/latest.json. Options: --rounds N, --burst N, --idle N, --only part-of-a-name,…, --out file,
# --parts name,… (egress, say), --connections N (at one time, 0 leaves that part out) and --churn N (one after the other, 100000 for the long form) of the way out.
# `--install` first installs the peers that are missing (apt); `--publish` renews docs/performance.md from the results.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need_node
peers=() publish="" out=bench/results/latest.json args=()
while [ $# -gt 0 ]; do
  case $1 in
    --install) peers=(runc=runc podman=podman bwrap=bubblewrap dockerd=docker.io docker=docker.io tinyproxy=tinyproxy-bin) ;;
    --publish) publish=yes ;;
    --out) out=$2 && shift ;;
    *) args+=("$1") ;;
  esac
  shift
done
[ "$(id -u)" = 0 ] || fail "the bench makes real sandboxes and needs root" "sudo scripts/bench.sh"
need_programs crun=crun /bin/busybox=busybox-static "${peers[@]}"
mend_hybrid_cgroups
install_node_modules
build_all
npx esbuild bench/run.ts bench/publish.ts --bundle --platform=node --format=esm --target=node20 --packages=external --outdir=dist/bench \
  --log-level=warning
node dist/bench/run.js "${args[@]}" --out "$out"
[ -z "$publish" ] || node dist/bench/publish.js "$out"
