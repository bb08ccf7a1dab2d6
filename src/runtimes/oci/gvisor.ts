import { join } from "node:path";
import type { RuntimeSpec } from "../../contracts/runtime.ts";
import { guestArgs } from "../common/guest-program.ts";
import { parseVersion } from "../common/known-weaknesses.ts";
import { type BundleOptions, bundleBasics } from "./bundle.ts";
import type { OutsideMount } from "./launcher-client.ts";
import type { SandboxPaths } from "./layout.ts";
import { parentsFirst } from "./outside.ts";
import type { OciProgram } from "./programs.ts";

/**
 * The config.json of one sandbox, for runsc. Its kernel makes /proc, /sys, /dev and /dev/pts itself, has nothing that would
 * have to be masked, and doesn't look at seccomp or devices.
 */
export function gvisorConfig(
  options: BundleOptions & { openFiles: number; outside: readonly OutsideMount[]; stage: string },
): object {
  const { spec, openFiles } = options;
  const basics = bundleBasics(options);
  return {
    ...basics,
    // The launcher makes it read-only: runsc fails over our mount's nodev when it tries.
    root: { ...basics.root, readonly: false },
    process: {
      ...basics.process,
      // The relay hands connections over through stdin: runsc takes no listening socket of the host's.
      args: options.args ?? guestArgs(spec, ["--receive", "0"]),
      rlimits: [{ type: "RLIMIT_NOFILE", soft: openFiles, hard: openFiles }],
    },
    mounts: gvisorMounts(spec, options.outside, options.stage),
    linux: {
      ...basics.linux,
      // Go programs can't join a user namespace, so runsc makes it itself.
      namespaces: ["user", "pid", "mount", "network", "ipc", "uts"].map((type) => ({ type })),
    },
  };
}

/**
 * gVisor's kernel mounts everything itself: else it would take files of a volume for its own, and not see what another
 * sandbox writes there.
 */
function gvisorMounts(spec: RuntimeSpec, outside: readonly OutsideMount[], stage: string): object[] {
  const tmpfs = spec.tmpfs.map((mount) => ({
    target: mount.path,
    type: "tmpfs",
    source: "tmpfs",
    options: [
      "nosuid",
      "nodev",
      ...(mount.exec ? [] : ["noexec"]),
      ...(mount.readonly ? ["ro"] : []),
      `mode=${mount.mode.toString(8).padStart(4, "0")}`,
      `size=${mount.sizeBytes}`,
    ],
  }));
  const trees = outside.map((mount, index) => ({
    target: mount.target,
    type: "bind",
    source: join(stage, "mounts", String(index)),
    options: ["rbind", "rprivate", "nosuid", "nodev", mount.readonly ? "ro" : "rw"],
  }));
  return parentsFirst([...tmpfs, ...trees]).map(({ target, ...mount }) => ({
    destination: target,
    ...mount,
  }));
}

/** How runsc is called. Its state is on the stage, which goes with the sandbox's mount namespace. */
export function gvisorArgv(program: OciProgram, stage: string, paths: SandboxPaths, id: string): string[] {
  return [
    program.path,
    "--root",
    join(stage, "run"),
    "--log",
    paths.log,
    "--log-format",
    "json",
    "--platform",
    program.platform ?? "systrap",
    "--network=none",
    // Else what is written goes to a file that is gone with the sandbox, not to its own layer.
    "--overlay2=none",
    "run",
    "--detach",
    "--pid-file",
    paths.runtimePid,
    "--bundle",
    paths.dir,
    id,
  ];
}

/**
 * Before this release of gVisor (commit e7bd1b4c9 of 2023-07-14) a process whose parent has ended always became a child of PID
 * 1 (PR_SET_CHILD_SUBREAPER did nothing), so a command's timeout could not end its whole tree.
 */
const OLDEST_GVISOR = 20_230_717;

export function isUsableGvisor(version: string): boolean {
  return (parseVersion(version)?.numbers[0] ?? 0) >= OLDEST_GVISOR;
}
