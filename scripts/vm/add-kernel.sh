#!/bin/sh
# mmdebstrap's hook: unpacks Debian's cloud kernel into the tree "$1", as /boot/vmlinuz and /lib/modules. Installing the
# package would also make an initramfs, which takes long and is not used.
set -eu
root=$1
debs=$(mktemp -d)
trap 'rm -rf "$debs"' EXIT
cd "$debs"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"

# The metapackage names the current kernel.
apt-get -qq -o APT::Sandbox::User=root download linux-image-cloud-amd64
kernel=$(dpkg-deb --field linux-image-cloud-amd64_*.deb Depends | grep -oE 'linux-image-[0-9][^ ,]*')
apt-get -qq -o APT::Sandbox::User=root download "$kernel"
# /lib is a link to usr/lib in the tree, but a directory in the package.
dpkg-deb --fsys-tarfile "$kernel"_*.deb | tar -x -C "$root" --keep-directory-symlink ./boot ./lib/modules
version=${kernel#linux-image-}
mv "$root/boot/vmlinuz-$version" "$root/boot/vmlinuz"
rm -f "$root/boot/config-$version" "$root/boot/System.map-$version"
chroot "$root" depmod "$version"
