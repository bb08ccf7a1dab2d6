import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ociPrograms } from "../../src/runtimes/oci/programs.ts";
import { runBare } from "./support/bare.ts";
import { type Lab, openLab, outcomesOf } from "./support/lab.ts";

/** EPERM, EACCES, EINVAL (an audit socket), ENOSYS, EPROTONOSUPPORT, EAFNOSUPPORT. */
const refusals = ["E1", "E13", "E22", "E38", "E93", "E97"];

/** What the kernel of this host was built without can't be tried without the guard either: ENOSYS, EAFNOSUPPORT. */
const absent = ["E38", "E97"];

/**
 * Each attempt, and its outcome in a container without our guards. Where that is an errno, the arguments are wrong on
 * purpose: the call got past every check of permission, and would have had its effect with right ones.
 */
const attempts: Record<string, { program: string; args?: string[]; outcomes: Record<string, string> }> = {
  "namespaces and mounts": {
    program: "namespaces",
    outcomes: {
      ...each("unshare", "user mnt pid net ipc uts cgroup time"),
      ...each("clone", "user mnt pid net ipc uts cgroup"),
      ...each("clone3", "user mnt pid net ipc uts cgroup time"),
      ...each("setns", "mnt pid net ipc uts cgroup time"),
      setns_of_pid1: "ok",
      mount_tmpfs: "ok",
      mount_proc: "ok",
      mount_bind: "ok",
      mount_cgroup: "ok",
      remount_sys_writable: "ok",
      make_root_shared: "ok",
      umount_proc: "ok",
      umount_dev_pts: "ok",
      do_pivot_root: "E16",
      do_fsopen: "ok",
      do_fspick: "ok",
      do_open_tree_clone: "ok",
      do_move_mount: "ok",
      do_mount_setattr: "ok",
    },
  },
  "the kernel itself": {
    program: "kernel",
    outcomes: {
      keyctl_session: "ok",
      do_add_key: "ok",
      do_request_key: "E126",
      bpf_map_create: "ok",
      do_perf_event_open: "ok",
      do_userfaultfd: "ok",
      io_uring_setup: "ok",
      io_uring_enter: "E9",
      io_uring_register: "E95",
      do_kexec_load: "E22",
      kexec_file_load: "E22",
      do_init_module: "E8",
      do_finit_module: "E9",
      do_delete_module: "E2",
      do_open_by_handle_at: "ok",
      reboot_with_wrong_magic: "E22",
      do_swapon: "E2",
      do_swapoff: "E2",
      settimeofday_with_wrong_zone: "E22",
      clock_settime_of_fixed_clock: "E22",
      "personality READ_IMPLIES_EXEC": "ok",
      "personality ADDR_NO_RANDOMIZE": "ok",
      "personality MMAP_PAGE_ZERO": "ok",
      "personality UNAME26 with more": "ok",
      do_quotactl: "E2",
      do_acct: "E2",
      do_fanotify_init: "ok",
      fanotify_init_unprivileged: "ok",
      syslog_size: "ok",
      syslog_read_all: "ok",
      do_sethostname: "ok",
      do_setdomainname: "ok",
      do_vhangup: "ok",
      nice_below_zero: "ok",
      realtime_scheduler: "ok",
      ...(process.arch === "x64"
        ? { do_iopl: "ok", do_ioperm: "ok", nfsservctl: "E38", lookup_dcookie: "E22" }
        : {}),
    },
  },
  "PID 1 and the supervisor": {
    program: "processes",
    args: ["bare"],
    outcomes: Object.assign(
      {},
      ...["init", "supervisor"].map((who) => ({
        ...each(who, "ptrace_attach ptrace_seize pidfd_getfd kcmp"),
        [`${who} process_vm_readv`]: "E14",
        [`${who} process_vm_writev`]: "E14",
        [`${who} mem for reading`]: "ok",
        ...each(who, "mem exe root cwd fd/N maps environ ns/mnt"),
      })),
    ),
  },
  sockets: {
    program: "sockets",
    outcomes: {
      ...each(
        "AF",
        "VSOCK PACKET ALG KEY BLUETOOTH CAN TIPC RDS IUCV KCM SMC XDP APPLETALK X25 RXRPC QIPCRTR",
        "_",
      ),
      "AF_PACKET datagram": "ok",
      "AF_NETLINK audit": "ok",
      "AF_INET raw": "ok",
      "AF_INET raw, any protocol": "ok",
      "AF_INET6 raw": "ok",
      netlink_set_link_down: "ok",
      ioctl_set_mtu: "ok",
      so_mark: "ok",
      nftables_batch: "ok",
    },
  },
  "device nodes": {
    program: "devices",
    outcomes: {
      block_device: "ok",
      loop_device: "ok",
      kernel_memory: "ok",
      null_device: "ok",
      kvm_device: "ok",
      fuse_device: "ok",
      null_device_in_dev: "ok",
    },
  },
};

function each(what: string, names: string, separator = " "): Record<string, string> {
  return Object.fromEntries(names.split(" ").map((name) => [`${what}${separator}${name}`, "ok"]));
}

const labs = new Map<string, Lab>();

beforeAll(async () => {
  const programs = Object.values(attempts).map(({ program }) => program);
  for (const ociProgram of ociPrograms) labs.set(ociProgram, await openLab({ programs, ociProgram }));
});
afterAll(async () => {
  for (const lab of labs.values()) await lab[Symbol.asyncDispose]();
});

describe.each(Object.entries(attempts))("%s", (_, { program, args, outcomes }) => {
  /** By `<container runtime>, <user>`. */
  const inside = new Map<string, Map<string, string>>();
  let bare: Map<string, string>;

  beforeAll(async () => {
    for (const [ociProgram, lab] of labs) {
      const sandbox = await lab.sandbox();
      for (const user of ["root", "mallory"]) {
        inside.set(`${ociProgram}, ${user}`, outcomesOf(await lab.attack(sandbox, program, [], { user })));
      }
      await lab.engine.remove(sandbox);
      bare ??= outcomesOf(await runBare(lab.dir, lab.program(program), args));
    }
  });

  it("tells the outcome of exactly these attempts", () => {
    const names = Object.keys(outcomes).sort();
    expect(inside.size).toBe(4);
    for (const told of [...inside.values(), bare]) expect([...told.keys()].sort()).toEqual(names);
  });

  it.each(Object.entries(outcomes))(
    "%s is refused to root and user inside, and works without the guard",
    (name, outcome) => {
      for (const [where, told] of inside) {
        expect([where, refusals.includes(told.get(name) ?? "") || told.get(name)]).toEqual([where, true]);
      }
      expect([outcome, ...absent]).toContain(bare.get(name));
    },
  );
});
