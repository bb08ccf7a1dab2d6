#!/usr/bin/env bash
# Installs gVisor's runsc, of 2023-07-17 or later: for sandboxes with --isolation gvisor. Debian 12's own is older, so there it
# comes from backports, of the mirror that this machine's apt uses already. Nothing is left in apt's configuration.
set -euo pipefail

oldest=20230717
runsc_date() { runsc --version 2>/dev/null | sed -n 's/^runsc version .*\(20[0-9]\{6\}\)\..*/\1/p'; }
is_new_enough() { [ "$(runsc_date || true)" -ge "$oldest" ] 2>/dev/null; }

if is_new_enough; then exit 0; fi
[ "$(id -u)" = 0 ] || { echo "error: installing needs root" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "error: install runsc as gvisor.dev says: there is no apt-get here" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive

candidate_date() { apt-cache policy runsc | sed -n 's/^ *Candidate: .*\(20[0-9]\{6\}\)\..*/\1/p'; }
candidate=$(candidate_date)
if [ -z "$candidate" ]; then # apt's lists are empty
  apt-get update -qq
  candidate=$(candidate_date)
fi
if [ "${candidate:-0}" -ge "$oldest" ]; then
  apt-get install -y -qq --no-install-recommends runsc >/dev/null
else
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  # shellcheck disable=SC2016  # apt's own variables
  mirror=$(apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
    sed -n "s/^Debian $codename //p" | head -n 1)
  [ -n "$mirror" ] || { echo "error: apt has no Debian mirror here; install runsc as gvisor.dev says" >&2; exit 1; }
  own=$(mktemp -d)
  trap 'rm -rf "$own"' EXIT
  chmod 755 "$own"
  mkdir -p "$own/lists/partial"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
    "$mirror" "$codename-backports" >"$own/backports.list"
  # Only this suite, in lists of its own: runsc is static and needs nothing else of it.
  apt=(-o "Dir::Etc::sourcelist=$own/backports.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$own/lists")
  apt-get "${apt[@]}" update -qq
  apt-get "${apt[@]}" install -y -qq --no-install-recommends runsc >/dev/null
fi
is_new_enough || { echo "error: apt has only runsc $(runsc_date) here, which is too old" >&2; exit 1; }
