#!/bin/busybox sh
# shellcheck shell=dash
# First program in the guest: loads the disk drivers, mounts the root disk and the checkout, and hands over to guest-init.sh.
set -eu
/bin/busybox mkdir -p /proc /sys /dev /new
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module"; done
waited=0
until [ -b /dev/vda ] && [ -b /dev/vdb ] && [ -b /dev/vdc ]; do
  waited=$((waited + 1))
  [ $waited -lt 300 ] || { echo "warren-vm: the disks did not appear"; exit 1; }
  sleep 0.1
done
# noinit_itable: initialising inode tables in the background would only cost time.
mount -t ext4 -o noatime,noinit_itable /dev/vda /new
mount -t ext4 -o noatime,noinit_itable /dev/vdb /new/srv/warren
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /new/run
cp -r /job /new/run/warren-vm
for dir in proc sys dev; do mount --move /$dir /new/$dir; done
exec switch_root /new /run/warren-vm/guest-init
