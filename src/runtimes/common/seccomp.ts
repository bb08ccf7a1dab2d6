import { access, constants } from "node:fs/promises";
import { WarrenError } from "../../contracts/errors.ts";
import { nativeProgram } from "../../lib/native.ts";
import { run } from "../../lib/run.ts";
import { containersProfile, type ProfileRule } from "./seccomp-profile.ts";

const EPERM = 1;
const EINVAL = 22;
const ENOSYS = 38;
const EAFNOSUPPORT = 97;

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h). */
const namespaceFlags = [
  0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000,
];
const allNamespaceFlags = namespaceFlags.reduce((all, flag) => all | flag, 0);

/** AF_UNIX, AF_INET, AF_INET6. AF_NETLINK (16) has a rule of its own. */
const socketFamilies = [1, 2, 10];

/** AF_PACKET, AF_ALG, AF_VSOCK: refused in the words that programs expect. Families without a rule get the default errno. */
const refusedFamilies = [17, 38, 40];

/**
 * What the containers/common profile allows to everybody and Docker's only with a capability: new namespaces, mounts, other
 * processes' memory, keyrings, NUMA placement. A process that has the capability in its user namespace gets the calls back.
 */
const needsCapability: Record<string, string> = {
  CAP_SYS_ADMIN:
    "unshare setns mount umount umount2 mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick pivot_root fanotify_init",
  CAP_SYS_PTRACE: "process_vm_readv process_vm_writev pidfd_getfd process_mrelease",
  CAP_SYS_NICE: "get_mempolicy set_mempolicy mbind",
  CAP_SYS_BOOT: "reboot",
  CAP_SYSLOG: "syslog",
};

/** Refused to all. Keyrings aren't bound to a user namespace in every kernel; the rest is attack surface without a use inside. */
const refused = `add_key request_key keyctl userfaultfd kexec_load kexec_file_load nfsservctl vmsplice
  io_uring_setup io_uring_enter io_uring_register`;

/** Handled by rules of our own. */
const replaced = "clone clone3 socket ioctl";

/** Puts bytes into the input of a terminal, as if typed there (asm-generic/ioctls.h). Kernels before 6.2 have no switch for it. */
const TIOCSTI = 0x5412;

const words = (text: string) => text.split(/\s+/).filter(Boolean);

/** The profile's rules for one architecture (Go's name) and capability set, tightened. Later rules never contradict earlier ones. */
export function seccompRules(options: { arch: string; capabilities: readonly string[] }): ProfileRule[] {
  const caps = new Set(options.capabilities);
  const ours: ProfileRule[] = [{ names: refused, action: EPERM }];
  for (const [cap, names] of Object.entries(needsCapability)) {
    ours.push({ names, action: caps.has(cap) ? "allow" : EPERM });
  }
  ours.push(
    ...cloneRules(caps.has("CAP_SYS_ADMIN")),
    ...socketRules(caps.has("CAP_AUDIT_WRITE")),
    ...ioctlRules(),
  );
  const taken = new Set([...ours.flatMap((rule) => words(rule.names)), ...words(replaced)]);
  const theirs = containersProfile.rules
    .filter((rule) => !rule.arches || rule.arches.includes(options.arch))
    .filter((rule) => !rule.withCap || caps.has(rule.withCap))
    .filter((rule) => !rule.withoutCap || !caps.has(rule.withoutCap))
    .map((rule) => ({
      ...rule,
      names: words(rule.names)
        .filter((name) => !taken.has(name))
        .join(" "),
    }))
    .filter((rule) => rule.names !== "");
  return [...ours, ...theirs];
}

function cloneRules(mayMakeNamespaces: boolean): ProfileRule[] {
  if (mayMakeNamespaces) return [{ names: "clone", action: "allow" }];
  // clone3's flags are behind a pointer, which a filter can't read; ENOSYS makes libc fall back to clone.
  return [
    { names: "clone3", action: ENOSYS },
    {
      names: "clone",
      action: "allow",
      args: [{ index: 0, op: "MASKED_EQ", value: allNamespaceFlags, valueTwo: 0 }],
    },
    ...namespaceFlags.map(
      (flag): ProfileRule => ({
        names: "clone",
        action: EPERM,
        args: [{ index: 0, op: "MASKED_EQ", value: flag, valueTwo: flag }],
      }),
    ),
  ];
}

/** Families that reach past the network namespace (AF_VSOCK) or widen the kernel's attack surface (AF_ALG…) are not listed. */
function socketRules(mayAudit: boolean): ProfileRule[] {
  const eq = (index: number, value: number) => ({ index, op: "EQ" as const, value, valueTwo: 0 });
  const rules: ProfileRule[] = socketFamilies.map((family) => ({
    names: "socket",
    action: "allow",
    args: [eq(0, family)],
  }));
  for (const family of refusedFamilies) {
    rules.push({ names: "socket", action: EAFNOSUPPORT, args: [eq(0, family)] });
  }
  // EINVAL for NETLINK_AUDIT (9) tells libaudit that there is no auditing; without it `su` and its like fail.
  if (!mayAudit) rules.push({ names: "socket", action: EINVAL, args: [eq(0, 16), eq(2, 9)] });
  rules.push({
    names: "socket",
    action: "allow",
    args: mayAudit ? [eq(0, 16)] : [eq(0, 16), { index: 2, op: "NE", value: 9, valueTwo: 0 }],
  });
  return rules;
}

/**
 * All but TIOCSTI. The kernel looks at the low 32 bits of a request only, and a filter can compare masked values for equality
 * only, so the allowed ones are told bit by bit: each differs from TIOCSTI in one at least.
 */
function ioctlRules(): ProfileRule[] {
  const masked = (value: number, valueTwo: number) => ({
    index: 1,
    op: "MASKED_EQ" as const,
    value,
    valueTwo,
  });
  const rules: ProfileRule[] = [{ names: "ioctl", action: EPERM, args: [masked(0xffff_ffff, TIOCSTI)] }];
  for (let bit = 0; bit < 32; bit++) {
    const mask = (1 << bit) >>> 0;
    rules.push({ names: "ioctl", action: "allow", args: [masked(mask, (~TIOCSTI & mask) >>> 0)] });
  }
  return rules;
}

/**
 * Node's name of the architecture we run on → Go's, libseccomp's and OCI's. System calls of the 32-bit ABIs are refused (the
 * process is killed): on x86, `socketcall` there would be a way round the rules for `socket`, and both ABIs have a history of
 * kernel holes.
 */
const architectures: Record<string, { go: string; libseccomp: string; oci: string } | undefined> = {
  x64: { go: "amd64", libseccomp: "x86_64", oci: "SCMP_ARCH_X86_64" },
  arm64: { go: "arm64", libseccomp: "aarch64", oci: "SCMP_ARCH_AARCH64" },
};

export interface OciSeccomp {
  defaultAction: string;
  defaultErrnoRet: number;
  architectures: string[];
  syscalls: {
    names: string[];
    action: string;
    errnoRet?: number;
    args?: { index: number; value: number; valueTwo: number; op: string }[];
  }[];
}

export interface Seccomp {
  /** `linux.seccomp` of a bundle. */
  oci: OciSeccomp;
  /** The same compiled to BPF, in base64, where our compiler was built. */
  bpf?: string;
}

/** @throws WarrenError `unsupported` on an architecture that has no table here. */
export async function prepareSeccomp(capabilities: readonly string[]): Promise<Seccomp> {
  const arch = architecture();
  const rules = seccompRules({ arch: arch.go, capabilities });
  const bpf = await compile(rules, arch.libseccomp);
  return { oci: toOci(rules, arch.oci), ...(bpf === undefined ? {} : { bpf }) };
}

/** Without the compiled form. @throws WarrenError as `prepareSeccomp`. */
export function ociSeccomp(capabilities: readonly string[]): OciSeccomp {
  const arch = architecture();
  return toOci(seccompRules({ arch: arch.go, capabilities }), arch.oci);
}

function architecture() {
  const arch = architectures[process.arch];
  if (arch) return arch;
  throw new WarrenError("unsupported", `there is no seccomp profile for the architecture ${process.arch}`);
}

function toOci(rules: readonly ProfileRule[], arch: string): OciSeccomp {
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: containersProfile.defaultErrno,
    architectures: [arch],
    syscalls: rules.map((rule) => ({
      names: words(rule.names),
      ...(rule.action === "allow"
        ? { action: "SCMP_ACT_ALLOW" }
        : { action: "SCMP_ACT_ERRNO", errnoRet: rule.action }),
      ...(rule.args ? { args: rule.args.map((arg) => ({ ...arg, op: `SCMP_CMP_${arg.op}` })) } : {}),
    })),
  };
}

/** Compiled at each open and never stored, so that no file on disk can widen the filter. */
async function compile(rules: readonly ProfileRule[], arch: string): Promise<string | undefined> {
  const program = nativeProgram("warren-seccomp");
  const built = await access(program, constants.X_OK).then(
    () => true,
    () => false,
  );
  if (!built) return undefined;
  const result = await run(program, [], {
    stdin: Buffer.from(compilerInput(rules, arch)),
    maxOutputBytes: 512 * 1024,
  });
  // A BPF instruction is 8 bytes.
  if (result.code !== 0 || result.stdout.length === 0 || result.stdout.length % 8 !== 0 || result.truncated) {
    throw new WarrenError(
      "runtime_failed",
      `the seccomp profile does not compile: ${result.stderr.toString("utf8").trim()}`,
    );
  }
  return result.stdout.toString("base64");
}

function compilerInput(rules: readonly ProfileRule[], arch: string): string {
  const action = (value: "allow" | number) => (value === "allow" ? "allow" : `errno:${value}`);
  const lines = [`default errno:${containersProfile.defaultErrno}`, `arch ${arch}`];
  for (const rule of rules) {
    const args = (rule.args ?? []).map((a) => ` ${a.index} ${a.op} ${a.value} ${a.valueTwo}`).join("");
    for (const name of words(rule.names)) lines.push(`rule ${action(rule.action)} ${name}${args}`);
  }
  return `${lines.join("\n")}\n`;
}
