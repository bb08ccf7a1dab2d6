/** Docker's list (moby oci/defaults.go), with what older releases of it lack. */
export const maskedPaths: readonly string[] = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/interrupts",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/sys/devices/virtual/powercap",
  "/sys/firmware",
];

export const readonlyPaths: readonly string[] = [
  "/proc/bus",
  "/proc/fs",
  "/proc/irq",
  // Writing here makes triggers on the host's pressure.
  "/proc/pressure",
  "/proc/sys",
  "/proc/sysrq-trigger",
  // On cgroup v1 this is a tmpfs that crun and runc leave writable around the controllers.
  "/sys/fs/cgroup",
];
