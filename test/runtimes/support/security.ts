import { describe, expect, it } from "vitest";
import { capabilities } from "../../../src/runtimes/common/guest-program.ts";

/** Bits of capability(7) numbers, as /proc/PID/status shows them. */
const capabilityNumbers: Record<string, number> = {
  CAP_CHOWN: 0,
  CAP_DAC_OVERRIDE: 1,
  CAP_FOWNER: 3,
  CAP_FSETID: 4,
  CAP_KILL: 5,
  CAP_SETGID: 6,
  CAP_SETUID: 7,
  CAP_SETPCAP: 8,
  CAP_NET_BIND_SERVICE: 10,
  CAP_SYS_CHROOT: 18,
  CAP_SETFCAP: 31,
};
const mask = capabilities
  .reduce((all, name) => all | (1n << BigInt(capabilityNumbers[name] ?? 63)), 0n)
  .toString(16)
  .padStart(16, "0");
const none = "0".repeat(16);

const EPERM = 1;
const ENOSYS = 38;
const EINVAL = 22;
const EAFNOSUPPORT = 97;

/** x86-64 numbers, arguments (perl takes no literal string for a system call) and the errno that is expected; 0: allowed. */
const calls: [name: string, args: (number | string)[], errno: number][] = [
  ["unshare(CLONE_NEWUSER)", [272, 0x10000000], EPERM],
  ["unshare(CLONE_NEWNS)", [272, 0x20000], EPERM],
  ["clone(CLONE_NEWUSER)", [56, 0x10000000 | 17, 0, 0, 0, 0], EPERM],
  ["clone(CLONE_NEWNET)", [56, 0x40000000 | 17, 0, 0, 0, 0], EPERM],
  ["clone3", [435, 0, 88], ENOSYS],
  ["setns", [308, 0, 0], EPERM],
  ["mount", [165, '(my $text = "x")', '(my $text = "/mnt")', '(my $text = "tmpfs")', 0, 0], EPERM],
  ["umount2", [166, '(my $text = "/proc")', 2], EPERM],
  ["pivot_root", [155, '(my $text = "/")', '(my $text = "/")'], EPERM],
  ["open_tree", [428, -100, '(my $text = "/")', 1], EPERM],
  ["fsopen", [430, '(my $text = "tmpfs")', 0], EPERM],
  ["mount_setattr", [442, -100, '(my $text = "/")', 0, 0, 0], EPERM],
  ["add_key", [248, '(my $text = "user")', '(my $text = "x")', '(my $text = "y")', 1, -3], EPERM],
  ["keyctl", [250, 0, -3, 1], EPERM],
  ["request_key", [249, '(my $text = "user")', '(my $text = "x")', 0, 0], EPERM],
  ["bpf", [321, 0, 0, 0], EPERM],
  ["perf_event_open", [298, 0, 0, -1, -1, 0], EPERM],
  ["userfaultfd", [323, 0], EPERM],
  ["io_uring_setup", [425, 1, 0], EPERM],
  ["process_vm_readv", [310, 1, 0, 0, 0, 0, 0], EPERM],
  ["pidfd_getfd", [438, 0, 0, 0], EPERM],
  ["kexec_load", [246, 0, 0, 0, 0], EPERM],
  ["init_module", [175, 0, 0, 0], EPERM],
  ["open_by_handle_at", [304, 0, 0, 0], EPERM],
  ["reboot", [169, 0, 0, 0], EPERM],
  ["swapon", [167, '(my $text = "/x")', 0], EPERM],
  ["syslog", [103, 3, 0, 0], EPERM],
  ["socket(AF_VSOCK)", [41, 40, 1, 0], EAFNOSUPPORT],
  ["socket(AF_ALG)", [41, 38, 5, 0], EAFNOSUPPORT],
  ["socket(AF_PACKET)", [41, 17, 3, 0], EAFNOSUPPORT],
  ["socket(NETLINK_AUDIT)", [41, 16, 3, 9], EINVAL],
  ["socket(AF_INET, SOCK_RAW)", [41, 2, 3, 1], EPERM],
  ["socket(AF_INET)", [41, 2, 1, 0], 0],
  ["socket(AF_UNIX)", [41, 1, 1, 0], 0],
  ["socket(NETLINK_ROUTE)", [41, 16, 3, 0], 0],
];

/** A sandbox, as the attacker in it sees it. */
export interface Inside {
  /** Standard output of a shell script; fails when it doesn't exit with 0. */
  sh(script: string, user?: string): Promise<string>;
}

/** What every runtime must hold for whoever is inside of a sandbox, whose image has a user `user`. */
export function testSecurityInside(box: () => Inside, user: string): void {
  describe("seen from inside", () => {
    it("gives the documented capabilities and no_new_privs and a filter, to init and to each command", async () => {
      for (const status of [
        await box().sh("cat /proc/1/status"),
        await box().sh("cat /proc/self/status"),
        await box().sh("cat /proc/self/status", user),
      ]) {
        const field = (name: string) => new RegExp(`^${name}:\\s*(\\S+)`, "m").exec(status)?.[1];
        const asRoot = field("Uid") === "0";
        expect(field("CapBnd")).toBe(mask);
        expect(field("CapEff")).toBe(asRoot ? mask : none);
        expect(field("CapPrm")).toBe(asRoot ? mask : none);
        expect(field("CapInh")).toBe(none);
        expect(field("CapAmb")).toBe(none);
        expect(field("NoNewPrivs")).toBe("1");
        expect(field("Seccomp")).toBe("2");
      }
    });

    it("refuses a new user namespace", async () => {
      expect(await box().sh("unshare -U true 2>&1 || echo refused")).toMatch(/refused\n$/);
      expect(await box().sh("unshare -U true 2>&1 || echo refused", user)).toMatch(/refused\n$/);
    });

    // By number, which each architecture has its own of.
    const noNumbers = process.arch === "x64" ? "" : " [not possible here: the numbers are those of x86-64]";
    it.skipIf(noNumbers !== "")(`filters system calls${noNumbers}`, async () => {
      const script = calls
        .map(([, args]) => `$! = 0; $r = syscall(${args.join(", ")}); print $r == -1 ? $! + 0 : 0, "\\n";`)
        // A clone that got through would run the rest of the script twice.
        .join(" exit if $$ != $first; ");
      const result = await box().sh(`perl -e '$first = $$; ${script}'`);
      const seen = result.trim().split("\n").map(Number);
      expect(calls.map(([name], i) => [name, seen[i]])).toEqual(
        calls.map(([name, , errno]) => [name, errno]),
      );
    });

    it("hides and protects /proc and /sys", async () => {
      for (const path of [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
      ]) {
        expect(await box().sh(`(echo x > ${path}) 2>/dev/null && echo written || echo refused`)).toBe(
          "refused\n",
        );
      }
      for (const path of ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"]) {
        expect(await box().sh(`head -c 1 ${path} 2>/dev/null | wc -c`), path).toBe("0\n");
      }
      expect(await box().sh("ls -A /sys/firmware")).toBe("");
      expect(
        await box().sh("(mkdir /sys/fs/cgroup/memory/x || mkdir /sys/fs/cgroup/x/y) 2>/dev/null || echo no"),
      ).toBe("no\n");
      expect(await box().sh("(mknod /root/sda b 8 0) 2>/dev/null || echo no")).toBe("no\n");
    });

    it("keeps the guest's program and the mounts in place", async () => {
      const script = `for d in /.warren /proc /dev /sys; do mv $d /moved 2>/dev/null && echo moved $d; done
        rm -rf /.warren 2>/dev/null; umount /.warren 2>/dev/null && echo unmounted
        (echo x > /.warren/guest) 2>/dev/null && echo written; ls /.warren | grep guest`;
      expect(await box().sh(script)).toBe("guest\n");
    });
  });
}
