#!/usr/bin/env bash
# Times Warren and its peers side by side; the table goes to stdout, every sample to bench/results/.
# Options: --rounds N, --burst N, --idle N, --only part-of-a-name,…; `--install` first installs the missing peers (apt).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need_node
peers=()
if [ "${1:-}" = --install ]; then
  shift
  peers=(podman=podman bwrap=bubblewrap)
fi
need_programs crun=crun runc=runc /bin/busybox=busybox-static "${peers[@]}"
mend_hybrid_cgroups
install_node_modules
build_all
npx esbuild bench/run.ts --bundle --platform=node --format=esm --packages=external --outfile=dist/bench/run.js --log-level=warning
exec node dist/bench/run.js "$@"
