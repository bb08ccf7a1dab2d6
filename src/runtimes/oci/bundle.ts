import type { RuntimeSpec } from "../../contracts/runtime.ts";
import { CPU_PERIOD_US, cpuQuotaUs, cpuShares } from "../common/cpu-limit.ts";
import { guestArgs, startCapabilities } from "../common/guest-program.ts";
import { guardArgs, SLIRP_NAME_SERVER } from "../common/open-network.ts";
import type { GroupPlan } from "../common/payload-groups.ts";
import { maskedPaths, readonlyPaths } from "../common/protected-paths.ts";
import type { Seccomp } from "../common/seccomp.ts";
import type { ContainerProgramName } from "./programs.ts";

/** Open files of a process inside, where the host's own limit isn't lower: enough for any build tool. */
const MAX_OPEN_FILES = 65_536;
/** /dev/shm, Docker's default. It counts as the sandbox's memory. */
const SHM_BYTES = 64 * 1024 * 1024;

/** RLIMIT_NOFILE, and RLIMIT_CORE in bytes. */
export interface ProcessLimits {
  openFiles: number;
  core: number;
}

export interface BundleOptions {
  spec: RuntimeSpec;
  ownerId: string;
  /** Absolute path of the root filesystem, as the container runtime sees it. */
  rootfs: string;
  /** Absent: no cgroup is made. */
  cgroupsPath?: string;
  /** True where an ordinary user runs us, who can't filter devices; what a user namespace mounts has none. */
  isRootless: boolean;
  idBase: number;
  idCount: number;
  /** Absolute path where the launcher mounts the sandbox's user namespace, which has this very mapping. */
  userNamespace: string;
  seccomp: Seccomp;
  swapController: boolean;
  /** Where its commands have limits of their own. */
  groups?: Pick<GroupPlan, "guestArgs" | "outer">;
  /** Program and arguments instead of the guest's: for the probe. */
  args?: readonly string[];
  /** Descriptor by which the guest learns that there is a network. */
  networkFd?: number;
}

/** The config.json of one sandbox, for crun and runc. */
export function bundleConfig(options: BundleOptions & { program: ContainerProgramName }): object {
  const { spec, seccomp } = options;
  const basics = bundleBasics(options);
  // crun compiles the JSON profile at each start (19 ms); it takes ready BPF through an annotation.
  const bpf = options.program === "crun" ? seccomp.bpf : undefined;
  return {
    ...basics,
    process: {
      ...basics.process,
      args:
        options.args ??
        guestArgs(spec, [
          ...["--fd", "3", ...(options.groups?.guestArgs ?? [])],
          ...(options.networkFd === undefined ? [] : ["--network", String(options.networkFd)]),
          ...guardArgs(spec, [SLIRP_NAME_SERVER]),
        ]),
    },
    // What else is mounted is there already: the launcher does it.
    mounts: systemMounts(options),
    annotations: {
      ...basics.annotations,
      ...(bpf === undefined ? {} : { "run.oci.seccomp_bpf_data": bpf }),
    },
    linux: {
      ...basics.linux,
      namespaces: [
        { type: "user", path: options.userNamespace },
        ...["pid", "mount", "ipc", "uts", "cgroup"].map((type) => ({ type })),
        ...(sharesNetwork(options) ? [] : [{ type: "network" }]),
      ],
      maskedPaths,
      readonlyPaths,
      ...(bpf === undefined ? { seccomp: seccomp.oci } : {}),
    },
  };
}

const sharesNetwork = ({ spec }: BundleOptions): boolean => spec.network === "host";

/** What is the same for every program. */
export function bundleBasics(options: BundleOptions) {
  const { spec } = options;
  const held = startCapabilities(spec);
  const mapping = [{ containerID: 0, hostID: options.idBase, size: options.idCount }];
  return {
    ociVersion: "1.0.0",
    hostname: spec.hostname,
    root: { path: options.rootfs, readonly: spec.readonlyRoot },
    process: {
      terminal: false,
      user: { uid: 0, gid: 0, umask: 0o022 },
      cwd: "/",
      env: Object.entries(spec.env).map(([name, value]) => `${name}=${value}`),
      noNewPrivileges: true,
      capabilities: {
        bounding: held,
        effective: held,
        permitted: held,
        inheritable: [],
        ambient: [],
      },
    },
    annotations: { "warren.owner": options.ownerId, "warren.id": spec.id },
    linux: {
      // Of the namespace that is joined: both programs look here for who owns the files that they make.
      uidMappings: mapping,
      gidMappings: mapping,
      ...(options.cgroupsPath === undefined
        ? {}
        : { cgroupsPath: options.cgroupsPath, resources: resources(options) }),
    },
  };
}

/**
 * What the launcher limits the container runtime to, and so the sandbox: runc would need CAP_SYS_RESOURCE to do it itself in
 * a user namespace of another owner. `hard` are this process's own limits: one above them needs that capability as well.
 */
export function processLimits(hard: ProcessLimits): ProcessLimits {
  return {
    openFiles: Math.min(hard.openFiles, MAX_OPEN_FILES),
    // Exactly 1 byte also stops the kernel from piping a dump to a handler on the host (core(5)); 0 does not.
    core: Math.min(hard.core, 1),
  };
}

function systemMounts(options: BundleOptions): object[] {
  const mounts = [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {
      destination: "/dev/shm",
      type: "tmpfs",
      source: "shm",
      options: ["nosuid", "noexec", "nodev", "mode=1777", `size=${SHM_BYTES}`],
    },
    {
      destination: "/dev/mqueue",
      type: "mqueue",
      source: "mqueue",
      options: ["nosuid", "noexec", "nodev"],
    },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
    {
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: ["nosuid", "noexec", "nodev", "relatime", "ro"],
    },
  ];
  // sysfs belongs to a network namespace, and that is the host's then.
  return mounts.filter(({ destination }) => !sharesNetwork(options) || !destination.startsWith("/sys"));
}

/** What serves open network is in the sandbox's cgroups; inside there is no such node, and nobody who could make one. */
function uplinkDevices({ network }: RuntimeSpec): object[] {
  return network === "open" ? [{ allow: true, type: "c", major: 10, minor: 200, access: "rw" }] : [];
}

function resources({ spec, groups, swapController, isRootless }: BundleOptions): object {
  const { memoryBytes, cpuNano, pids } = groups?.outer ?? spec.limits;
  return {
    ...(isRootless ? {} : { devices: [{ allow: false, access: "rwm" }, ...uplinkDevices(spec)] }),
    ...(memoryBytes > 0
      ? {
          memory: {
            limit: memoryBytes,
            // Memory and swap together, so equal to the limit: no swap.
            ...(swapController ? { swap: memoryBytes } : {}),
          },
        }
      : {}),
    ...(pids > 0 ? { pids: { limit: pids } } : {}),
    ...(cpuNano > 0
      ? { cpu: { period: CPU_PERIOD_US, quota: cpuQuotaUs(cpuNano), shares: cpuShares(cpuNano) } }
      : {}),
  };
}
