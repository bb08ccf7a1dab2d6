import { readdir, readFile } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ociPrograms } from "../../src/runtimes/oci/programs.ts";
import { runBare } from "./support/bare.ts";
import { type Lab, openLab, outcomesOf, outputOf } from "./support/lab.ts";

/** Hidden: nothing can be read there, whether it is a file or a directory. */
const masked =
  `/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug
  /proc/scsi /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware`.split(/\s+/);

/** Secrets of the kernel or of the host that need not be masked, since a root without the host's capabilities can't read them. */
const unreadable =
  `/proc/kmsg /proc/vmallocinfo /proc/slabinfo /proc/kpagecount /proc/kpageflags /proc/kpagecgroup
  /proc/1/mem /proc/1/maps /proc/1/environ /proc/1/auxv /proc/1/stack /proc/1/syscall /proc/1/io /proc/1/personality
  /sys/kernel/debug /sys/kernel/tracing /sys/kernel/security /sys/fs/bpf /sys/fs/pstore`.split(/\s+/);

/** What changes the host, or runs a program on it, when written. */
const readonly =
  `/proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hotplug
  /proc/sys/kernel/poweroff_cmd /proc/sys/kernel/hostname /proc/sys/kernel/domainname /proc/sys/kernel/panic
  /proc/sys/kernel/randomize_va_space /proc/sys/kernel/yama/ptrace_scope /proc/sys/kernel/unprivileged_bpf_disabled
  /proc/sys/kernel/ns_last_pid /proc/sys/kernel/shmmax /proc/sys/vm/overcommit_memory /proc/sys/vm/drop_caches
  /proc/sys/vm/panic_on_oom /proc/sys/vm/mmap_min_addr /proc/sys/fs/file-max /proc/sys/fs/suid_dumpable
  /proc/sys/fs/protected_symlinks /proc/sys/fs/binfmt_misc/register /proc/sys/fs/binfmt_misc/status
  /proc/sys/net/ipv4/ip_forward /proc/sys/net/core/somaxconn /proc/sys/user/max_user_namespaces /proc/irq/default_smp_affinity
  /proc/bus/pci/devices /proc/fs/ext4 /proc/mtrr /proc/dynamic_debug/control
  /proc/driver/rtc /proc/loadavg /proc/uptime /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run /sys/kernel/profiling
  /sys/kernel/kexec_crash_size /sys/power/state /sys/power/disk /sys/power/mem_sleep /sys/module/printk/parameters/time
  /sys/class/net/lo/mtu /sys/devices/system/cpu/cpu0/online /sys/devices/system/cpu/cpu1/online /sys/block/vda/uevent
  /sys/kernel/mm/transparent_hugepage/enabled /sys/fs/cgroup/release_agent /sys/fs/cgroup/memory/release_agent
  /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/memory/cgroup.procs /sys/fs/cgroup/memory/memory.limit_in_bytes
  /sys/fs/cgroup/memory/notify_on_release /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max
  /sys/fs/cgroup/devices/devices.allow /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cgroup.subtree_control`.split(
    /\s+/,
  );

/** No entry can be made in them. */
const closed = [
  "/proc",
  "/proc/sys",
  "/proc/fs",
  "/sys",
  "/sys/fs/cgroup",
  "/sys/fs/cgroup/memory",
  "/sys/kernel",
  "/.warren",
];

/** The devices that docs/SECURITY.md names. */
const devices = [
  "c 1:3 /dev/null",
  "c 1:5 /dev/zero",
  "c 1:7 /dev/full",
  "c 1:8 /dev/random",
  "c 1:9 /dev/urandom",
  "c 5:0 /dev/tty",
  "c 5:2 /dev/pts/ptmx",
];

describe.each(ociPrograms)("kernel files and devices, with %s", (ociProgram) => {
  let lab: Lab;
  let sandbox: string;
  let inside: Map<string, string>;
  let bare: Map<string, string>;
  const paths = [...masked, ...unreadable, ...readonly, ...closed];

  beforeAll(async () => {
    lab = await openLab({ programs: ["paths", "walk"], ociProgram });
    sandbox = await lab.sandbox();
    inside = outcomesOf(await lab.attack(sandbox, "paths", paths));
    bare = outcomesOf(await runBare(lab.dir, lab.program("paths"), paths));
  });
  afterAll(() => lab?.[Symbol.asyncDispose]());

  describe("masked", () => {
    it.each(masked)("%s gives nothing", (path) => {
      expect([path, inside.get(`read ${path}`)]).not.toEqual([path, "ok"]);
      expect([path, inside.get(`list ${path}`)]).not.toEqual([path, "ok"]);
    });

    it("gives something without the guard", () => {
      const told = masked.filter(
        (path) => bare.get(`read ${path}`) === "ok" || bare.get(`list ${path}`) === "ok",
      );
      // Not every kernel has them all; interrupts, keys and firmware are everywhere.
      expect(told).toEqual(expect.arrayContaining(["/proc/interrupts", "/proc/keys", "/sys/firmware"]));
    });
  });

  describe("unreadable", () => {
    it.each(unreadable)("%s gives nothing", (path) => {
      expect([path, inside.get(`read ${path}`)]).not.toEqual([path, "ok"]);
      expect([path, inside.get(`list ${path}`)]).not.toEqual([path, "ok"]);
    });

    it("gives something without the guard", () => {
      const told = unreadable.filter((path) => bare.get(`read ${path}`) === "ok");
      expect(told).toEqual(expect.arrayContaining(["/proc/slabinfo", "/proc/1/maps", "/proc/1/environ"]));
    });
  });

  describe("read-only", () => {
    it.each(readonly)("%s can't be opened for writing", (path) => {
      // EPERM, ENOENT, EACCES, EISDIR, EROFS; ENXIO and EINVAL from files that have nothing to write.
      expect(["E1", "E2", "E6", "E13", "E21", "E22", "E30", "E5"]).toContain(inside.get(`write ${path}`));
    });

    it("can be opened for writing without the guard", () => {
      const writable = readonly.filter((path) => bare.get(`write ${path}`) === "ok");
      expect(writable).toEqual(
        expect.arrayContaining([
          "/proc/sys/kernel/core_pattern",
          "/proc/sys/vm/drop_caches",
          "/sys/class/net/lo/mtu",
        ]),
      );
    });

    it.each(closed)("nothing can be made in %s", (path) => {
      expect(["E1", "E2", "E13", "E20", "E30"]).toContain(inside.get(`file in ${path}`));
      expect(["E1", "E2", "E13", "E20", "E30"]).toContain(inside.get(`dir in ${path}`));
    });

    it("no file of /proc or /sys at all opens for writing, a process's own apart", async () => {
      expect(outputOf(await lab.attack(sandbox, "walk", ["writable", "/proc", "/sys"]))).toBe("");
      const free = outputOf(await runBare(lab.dir, lab.program("walk"), ["writable", "/proc/sys/kernel"]));
      expect(free.split("\n").length).toBeGreaterThan(50);
    });
  });

  describe("devices", () => {
    it.each(["dir", "host"])("the image `%s` has the documented ones and no others", async (kind) => {
      const id = kind === "host" ? await lab.sandbox({ image: "host" }) : sandbox;
      const program = "/tmp/walk";
      await lab.engine.files.write(id, program, await readFile(lab.program("walk")), { mode: 0o755 });
      const result = await lab.engine.exec(id, { cmd: [program, "devices", "/"], timeout: 100 });
      // A masked file is /dev/null under its name.
      const masks = new Set(masked.map((path) => `c 1:3 ${path}`));
      const found = outputOf(result)
        .split("\n")
        .filter((line) => line !== "" && !masks.has(line));
      expect(found.sort()).toEqual(devices);
      if (kind === "host") await lab.engine.remove(id);
    });

    it("the host itself has more, /dev/mem among them where the kernel offers it", async () => {
      const onHost = outputOf(await lab.onHost("walk", ["devices", "/dev"]))
        .split("\n")
        .filter(Boolean);
      expect(onHost.length).toBeGreaterThan(devices.length);
      const names = await readdir("/dev");
      expect(onHost.includes("c 1:1 /dev/mem")).toBe(names.includes("mem"));
    });
  });
});
