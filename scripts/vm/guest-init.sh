#!/bin/bash
# PID 1 of the guest: makes the machine that a host with systemd would be, as far as sandboxes can tell (a pure cgroup v2
# hierarchy with every controller delegated), runs the one command, writes what came of it to the third disk, and powers off.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=xterm
job=/run/warren-vm
results=/run/warren-results

# shellcheck disable=SC2317  # called by the trap
power_off() {
  sync
  echo o >/proc/sysrq-trigger
  while :; do sleep 60; done
}
trap power_off EXIT # a PID 1 that exits is a kernel panic

mkdir -p /dev/pts /dev/shm /run/lock "$results"
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
# Without udev these stay root's own; every Debian host opens them to all.
modprobe -a fuse tun 2>/dev/null
chmod 666 /dev/fuse /dev/net/tun 2>/dev/null
hostname warren-vm
ip link set lo up
ulimit -Hn 524288
# With swap in reach, a memory limit that forgets about it is noticed.
fallocate -l 512M /var/swap && chmod 600 /var/swap && mkswap --quiet /var/swap && swapon /var/swap

# As systemd mounts it. Controllers can be enabled only in a group without processes of its own, so PID 1 moves to a leaf.
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/init
echo $$ >/sys/fs/cgroup/init/cgroup.procs
read -ra controllers </sys/fs/cgroup/cgroup.controllers
for controller in "${controllers[@]}"; do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || echo "warren-vm: no $controller controller"
done

census() {
  find /sys/fs/cgroup -mindepth 1 -type d -printf 'cgroup %P\n'
  findmnt --raw --noheadings --output TARGET | sed 's/^/mount /'
  find /tmp /var/tmp /dev/shm -mindepth 1 -maxdepth 1 -printf 'file %p\n'
  # The command has a session of its own; kernel threads and this script's helpers share this script's.
  ps -eo sid=,args= | awk -v mine="$(ps -o sid= $$)" '$1 != mine + 0 && $1 != 0 { $1 = ""; print "process" $0 }'
}

output=
for port in /sys/class/virtio-ports/*; do
  [ "$(cat "$port/name")" = warren.output ] && output=/dev/${port##*/}
done
[ -n "$output" ] || { echo "warren-vm: no output port"; exit 1; }
mapfile -d '' -t command <"$job/argv"
timeout_s=$(<"$job/timeout")
export WARREN_VM_RESULTS=$results

# The port can be opened only once at a time, and a program may open its /dev/stdout again: hence a pipe between.
mkfifo /run/output
cat </run/output >"$output" &
relay=$!
exec 3>/run/output
census | sort >/run/before
cd /srv/warren || exit 1
echo "warren-vm: kernel $(uname -r), $(stat -fc %T /sys/fs/cgroup), controllers: ${controllers[*]}" >/dev/console
started=$(date +%s)
setsid --wait timeout --kill-after=10 "$timeout_s" "${command[@]}" </dev/null >&3 2>&3 3>&-
status=$?
echo "warren-vm: exit status $status after $(($(date +%s) - started)) s" >/dev/console

# What ends on its own within a moment (a process that was just killed) is not left behind.
for _ in 1 2 3 4 5; do
  census | sort | comm -13 /run/before - >"$results/left-behind"
  [ -s "$results/left-behind" ] || break
  sleep 1
done
# Whoever still holds the output keeps nobody waiting.
exec 3>&-
for _ in 1 2 3 4 5; do
  kill -0 "$relay" 2>/dev/null || break
  sleep 1
done
echo "$status" >"$results/status"
tar -c -C "$results" . | dd of=/dev/vdc bs=1M conv=fsync status=none
exit 0
