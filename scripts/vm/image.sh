# shellcheck shell=bash
# The part of the guest that changes rarely: kernel, initrd modules, and a Debian tree with what sandboxes and their tests
# need. Sourced by cgroup2.sh.

guest_suite=bookworm
guest_packages=(
  crun runc skopeo umoci buildah podman slirp4netns passt uidmap bubblewrap docker-registry
  bash busybox-static bzip2 ca-certificates curl iproute2 kmod libstdc++6 mount openssl passwd perl-base procps tmux
  util-linux xz-utils zstd
  gcc libc6-dev libseccomp-dev make musl-tools # tests compile their hostile programs
)
# What must be loaded before the root disk and the output port can be used.
initrd_modules=(virtio_pci virtio_blk virtio_console ext4)
# Room for what tests write, on top of the tree itself. The image is a sparse file.
guest_free_mib=6144

# ensure_base CACHE WORK REBUILD: sets base_dir to a directory with root.ext4, vmlinuz and initrd/. It is built, below WORK,
# when the recipe or this machine's Node has changed, or REBUILD is yes.
ensure_base() {
  local cache=$1 work=$2 rebuild=$3 node npm
  node=$(readlink -f "$(command -v node)")
  npm=$(npm root --global 2>/dev/null)/npm
  base_dir=$cache/base-$({
    cat scripts/vm/image.sh scripts/vm/add-kernel.sh "$npm/package.json"
    sha256sum <"$node"
  } | sha256sum | cut -c1-16)
  [ "$rebuild" = no ] && [ -e "$base_dir/complete" ] && return 0
  [ "$(id -u)" = 0 ] || fail "building the guest's file system needs root" "sudo scripts/vm/cgroup2.sh"
  need_programs mmdebstrap=mmdebstrap depmod=kmod \
    /usr/share/keyrings/debian-archive-keyring.gpg=debian-archive-keyring
  step "building the guest (Debian $guest_suite; once)"

  local draft=$work/base
  mkdir "$draft" "$draft/initrd"
  host_sources >"$draft/sources.list"
  if [ ! -s "$draft/sources.list" ]; then # apt knows what its sources are once it has fetched their lists
    apt-get -qq update
    host_sources >"$draft/sources.list"
  fi
  [ -s "$draft/sources.list" ] ||
    fail "apt on this machine has no Debian $guest_suite source" \
      "add one, or name a sources.list in WARREN_VM_SOURCES"
  host_apt_options >"$draft/apt.conf"
  # In a mount namespace, so that a run that is killed leaves no mounts in the tree.
  nice -n 10 unshare --mount --propagation private \
    mmdebstrap --quiet --mode=root --variant=minbase --include="${guest_packages[*]}" \
    --aptopt="$draft/apt.conf" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook="$PWD/scripts/vm/add-kernel.sh" \
    "$guest_suite" "$draft/root" "$draft/sources.list" || fail "mmdebstrap failed"
  mv "$draft/root/boot/vmlinuz" "$draft/vmlinuz"
  add_node "$draft/root" "$node" "$npm"
  # The host's own settings have no business in the guest.
  rm -f "$draft/root/etc/apt/apt.conf.d/99mmdebstrap" "$draft/root/etc/apt/sources.list" "$draft/root/etc/resolv.conf"
  : >"$draft/root/etc/resolv.conf"
  echo warren-vm >"$draft/root/etc/hostname"
  printf '127.0.0.1 localhost warren-vm\n::1 localhost\n' >"$draft/root/etc/hosts"
  : >"$draft/root/etc/fstab"
  mkdir -p "$draft/root/srv/warren"
  collect_initrd "$draft/root" "$draft/initrd"

  local used_mib
  used_mib=$(du -sm "$draft/root" | cut -f1)
  # No journal: the disk is thrown away after each run.
  nice -n 10 mkfs.ext4 -q -F -O ^has_journal -L warren-root -d "$draft/root" "$draft/root.ext4" \
    "$((used_mib + guest_free_mib))M" >/dev/null
  rm -rf "$draft/root" "$draft/sources.list" "$draft/apt.conf"
  touch "$draft/complete"
  rm -rf "$cache"/base-*
  mv "$draft" "$base_dir"
}

# The Debian sources that this machine's apt uses, as one-line entries.
host_sources() {
  if [ -n "${WARREN_VM_SOURCES:-}" ]; then
    cat "$WARREN_VM_SOURCES"
    return
  fi
  # shellcheck disable=SC2016  # apt's own placeholders
  apt-get indextargets --format '$(CODENAME) $(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' 'Origin: Debian' |
    while read -r codename uri release component; do
      case $codename in
        "$guest_suite" | "$guest_suite"-updates | "$guest_suite"-security)
          printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s %s\n' "$uri" "$release" "$component"
          ;;
      esac
    done | sort -u
}

# How this machine's apt reaches its sources: proxies, certificates, checks.
host_apt_options() {
  apt-config dump | grep -E '^Acquire::(https?|Retries|ForceIPv[46]|Check-Date|Check-Valid-Until)\b' || true
}

# add_node ROOT NODE NPM: this machine's Node and npm, with the libraries that the guest lacks.
add_node() {
  local root=$1 node=$2 npm=$3 library
  install -D -m 755 "$node" "$root/usr/bin/node"
  while read -r library; do
    [ -e "$root$library" ] || install -D -m 755 "$library" "$root$library"
  done < <(ldd "$node" | grep -oE '/[^ ]+')
  mkdir -p "$root/usr/lib/node_modules"
  cp -a "$npm" "$root/usr/lib/node_modules/npm"
  ln -sf ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/bin/npm"
  ln -sf ../lib/node_modules/npm/bin/npx-cli.js "$root/usr/bin/npx"
  chroot "$root" ldconfig
  chroot "$root" node --version >/dev/null ||
    fail "this machine's Node.js does not run on Debian $guest_suite" "use a build of Node.js for glibc 2.36 or older"
}

# collect_initrd ROOT INITRD: a static busybox, and the modules in the order in which they must be loaded.
collect_initrd() {
  local root=$1 initrd=$2 version module path count=10
  version=$(basename "$root"/lib/modules/*)
  install -D -m 755 "$root/bin/busybox" "$initrd/bin/busybox"
  mkdir "$initrd/modules"
  for module in "${initrd_modules[@]}"; do
    while read -r path; do
      compgen -G "$initrd/modules/*-$(basename "$path")" >/dev/null && continue
      cp "$root$path" "$initrd/modules/$count-$(basename "$path")"
      count=$((count + 1))
    done < <(chroot "$root" modprobe -S "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p')
  done
}
