import { existsSync, rmSync, writeFileSync } from "node:fs";
import { open, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type { OnStep } from "../../contracts/steps.ts";
import { isFull, noSpace } from "../../lib/files.ts";
import { lastWords } from "../../lib/last-words.ts";
import type { Cgroups } from "../common/cgroup.ts";
import { liveGuest, type ProcessId } from "../common/guest-process.ts";
import { GUEST_DIR } from "../common/guest-program.ts";
import { FIRST_HANDED_FD, type GroupPlan, type PayloadGroups } from "../common/payload-groups.ts";
import type { Seccomp } from "../common/seccomp.ts";
import { bundleConfig, type ProcessLimits, processLimits } from "./bundle.ts";
import type { Freezer } from "./freezer.ts";
import { gvisorArgv, gvisorConfig } from "./gvisor.ts";
import type { SharedFiles } from "./host-facts.ts";
import { IDS_PER_SANDBOX, type IdRanges } from "./id-ranges.ts";
import type { Launcher, OutsideMount, ReadonlyBind } from "./launcher-client.ts";
import type { Layout, SandboxPaths } from "./layout.ts";
import { type ContainerProgramName, findProgram, type OciProgram, ociPrograms } from "./programs.ts";
import type { StoredSandbox } from "./sandbox-store.ts";
import { isRootTheUser } from "./subordinate-ids.ts";
import type { Uplink } from "./uplinks/uplink.ts";

/** A container runtime that takes longer than this is hung: it needs 10-30 ms, seconds on a very busy host. */
const START_TIMEOUT_MS = 60_000;
const DELETE_TIMEOUT_MS = 30_000;
/** How long the kernel may take to end what was killed: a process with much memory or slow I/O takes a while. */
const KILL_TIMEOUT_MS = 20_000;
/** Bytes of the runtime's error log that are looked at. */
const MAX_LOG_BYTES = 16_384;
/** How long what serves a network may take to notice that the guest has ended. */
const UPLINK_END_MS = 2_000;
const SIGKILL = 9;
/** As `lastWords` calls it. */
const SILENCE = "it said nothing";

export interface LifecycleOptions {
  ownerId: string;
  layout: Layout;
  launcher: Launcher;
  cgroups: Cgroups;
  payloadGroups: PayloadGroups;
  freezer: Freezer;
  ids: IdRanges;
  stage: string;
  hardLimits: ProcessLimits;
  swapController: boolean;
  /** False where an ordinary user has no cgroups; then nothing is limited. */
  hasCgroups: boolean;
  isRootless: boolean;
  /** Makes the groups of a sandbox that a process has to enter by itself, and gives the files to do that by. */
  enterGroups(id: string): Promise<string[]>;
  shared: SharedFiles;
  onStep: OnStep;
}

export interface StartOptions {
  program: OciProgram;
  seccomp: Seccomp;
  sandbox: StoredSandbox;
  binds: readonly ReadonlyBind[];
  /** Parents before what lies in them. */
  outside?: readonly OutsideMount[];
  paths: SandboxPaths;
  /** What carries its packets, where it has open network. */
  uplink?: Uplink;
  /** Program and arguments instead of the guest's: for the probe. */
  args?: readonly string[];
  /** Directory mounted at /.warren instead of the guest's: for the probe. */
  guestDir?: string;
}

/** What starts and ends the processes of a sandbox; it knows nothing of what the guest says. */
export interface Lifecycle {
  /** Throws `runtime_failed` with the container runtime's own words; nothing of it is left then. */
  start(options: StartOptions): Promise<ProcessId>;
  /** Waits at most `waitMs`; true when the guest is gone. */
  waitGone(guest: ProcessId, waitMs: number): Promise<boolean>;
  /** Kills everything and removes what start made outside of the sandbox's directory. */
  finish(id: string): Promise<void>;
  /** True when something of a start is there. */
  hasRemains(id: string): boolean;
}

export function createLifecycle(options: LifecycleOptions): Lifecycle {
  const { layout, launcher, cgroups, freezer, ids, onStep } = options;

  const finish = async (id: string): Promise<void> => {
    const paths = layout.sandbox(id);
    const guest = await liveGuest(paths.guestPid);
    if (freezer.isFrozen(id)) {
      // What is frozen on cgroup v1 does not die. The signal comes first, so that the guest runs no further.
      if (guest) await launcher.kill(guest, SIGKILL, 0);
      await freezer.thaw(id);
    }
    if (guest && !(await launcher.kill(guest, SIGKILL, KILL_TIMEOUT_MS))) {
      throw new WarrenError("runtime_failed", `sandbox ${id} was killed but does not end`, {
        hint: `process ${guest.pid} may wait for a disk or a network filesystem; try again later`,
      });
    }
    await killMembers(id);
    await endUplink(id);
    onStep("oci.ended-guest");
    for (const name of ociPrograms) await deleteContainer(name, id);
    onStep("oci.deleted-container");
    const files = [paths.guestPid, paths.uplinkPid, paths.runtimePid, paths.socket];
    await Promise.all([removeGroups(id), ...files.map((path) => rm(path, { force: true }))]);
    ids.release(id);
    onStep("oci.cleared");
  };

  /** It ends with the guest, a moment later; where a sandbox has no cgroup nobody else waits for it. */
  const endUplink = async (id: string): Promise<void> => {
    const uplink = await liveGuest(layout.sandbox(id).uplinkPid);
    if (!uplink || (await launcher.kill(uplink, 0, UPLINK_END_MS))) return;
    if (await launcher.kill(uplink, SIGKILL, KILL_TIMEOUT_MS)) return;
    throw new WarrenError("runtime_failed", `the network of sandbox ${id} was killed but does not end`);
  };

  /** Where the guest is, beside those whose limits are for commands. */
  const uplinkGroups = async (id: string, groups: GroupPlan | undefined): Promise<string[]> => {
    if (!options.hasCgroups) return [];
    if (groups?.leave) return [dirname(groups.leave.to)];
    const entered = await options.enterGroups(id);
    return entered.length > 0 ? entered.map((file) => dirname(file)) : cgroups.dirs(id);
  };

  /**
   * A container's pid namespace ends with the guest, so others are members only when a start was interrupted half way. Beside
   * gVisor's kernel there are a file server and a relay, which would end a little later by themselves.
   */
  const killMembers = async (id: string): Promise<void> => {
    if (!cgroups.hasMembers(id)) return;
    if (!(await launcher.cgroupKill(cgroups.memberDirs(id), cgroups.path(id), KILL_TIMEOUT_MS))) {
      throw new WarrenError("runtime_failed", `processes of sandbox ${id} were killed but do not end`);
    }
  };

  const removeGroups = (id: string): Promise<void> =>
    cgroups.remove(id).catch(async () => {
      await killMembers(id);
      await cgroups.remove(id);
    });

  const programPaths = new Map<string, string | undefined>();
  const deleteContainer = async (name: ContainerProgramName, id: string): Promise<void> => {
    const root = layout.runtimeRoot(name);
    if (!existsSync(join(root, id))) return;
    if (!programPaths.get(name)) programPaths.set(name, await findProgram(name));
    const path = programPaths.get(name);
    if (path) {
      // --force: a container whose start was interrupted counts as neither running nor stopped. When the program is gone or
      // fails, its record of a container without processes is all that can be left.
      const argv = [path, "--root", root, "delete", "--force", id];
      const as = "namespace-root";
      await launcher.run({ argv, as, timeoutMs: DELETE_TIMEOUT_MS }).catch(() => programPaths.delete(name));
    }
    await rm(join(root, id), { recursive: true, force: true });
  };

  return {
    async start({ program, seccomp, sandbox, binds, outside = [], paths, uplink, args, guestDir }) {
      const { id } = sandbox.spec;
      const idBase = isRootTheUser(sandbox.spec, options.isRootless) ? 0 : await ids.take(id);
      const { name } = program;
      const limits = processLimits(options.hardLimits);
      // All of gVisor's threads are its kernel's, which can't be told from its commands.
      const groups = name === "runsc" ? undefined : options.payloadGroups.plan(id, sandbox.spec);
      const handed = groups ? groups.handed.length + (groups.leave ? 1 : 0) : 0;
      const hasUplink = sandbox.spec.network === "open";
      if (hasUplink !== (uplink !== undefined)) throw new Error("open network is what an uplink is for");
      const bundle = {
        spec: sandbox.spec,
        ownerId: options.ownerId,
        rootfs: join(options.stage, "rootfs"),
        ...(options.hasCgroups ? { cgroupsPath: cgroups.path(id) } : {}),
        isRootless: options.isRootless,
        idBase,
        idCount: IDS_PER_SANDBOX,
        userNamespace: join(paths.dir, "userns"),
        seccomp,
        swapController: options.swapController,
        ...(groups ? { groups } : {}),
        ...(args ? { args } : {}),
        ...(hasUplink ? { networkFd: FIRST_HANDED_FD + handed } : {}),
      };
      const config =
        name === "runsc"
          ? gvisorConfig({ ...bundle, openFiles: limits.openFiles, outside, stage: options.stage })
          : bundleConfig({ ...bundle, program: name });
      const argv =
        name === "runsc"
          ? gvisorArgv(program, options.stage, paths, id)
          : containerArgv(program, layout.runtimeRoot(name), paths, id, {
              descriptors: 1 + handed + (hasUplink ? 1 : 0),
              hasCgroups: options.hasCgroups,
            });
      try {
        writeFileSync(paths.config, JSON.stringify(config), { mode: 0o600 });
        rmSync(paths.log, { force: true });
        onStep("oci.wrote-bundle");
        const result = await launcher.start({
          dir: paths.dir,
          stage: options.stage,
          workdir: sandbox.spec.workdir,
          idBase,
          idCount: IDS_PER_SANDBOX,
          // What a snapshot has of /etc/hosts and the like was written inside.
          lowers: [...(sandbox.layers ?? []), paths.top, sandbox.lower],
          binds: [
            ...binds,
            // Over whatever a link in the image leads there.
            { source: guestDir ?? options.shared.guestDir, target: GUEST_DIR.slice(1), last: true },
          ],
          outside,
          argv,
          timeoutMs: START_TIMEOUT_MS,
          limits,
          enter: name === "crun" ? await options.enterGroups(id) : [],
          ...(groups ? { groups } : {}),
          ...(uplink ? { uplink: { ...uplink.command(), groups: await uplinkGroups(id, groups) } } : {}),
          ...(name === "runsc"
            ? { rootReadonly: sandbox.spec.readonlyRoot, relayGroups: cgroups.dirs(id) }
            : {}),
        });
        if (result.pid !== 0) return result;
        if (result.ended === "timeout") {
          throw new WarrenError("runtime_failed", `${name} did not start the sandbox in time`);
        }
        const words = await runtimeWords(paths.log);
        // On a full disk it may be unable to say anything.
        if (/no space left on device/i.test(words) || (words === SILENCE && (await isFull(paths.dir)))) {
          throw new WarrenError("no_space", `${name} could not start the sandbox: the disk is full`, {
            hint: "remove sandboxes or files, and start it again",
          });
        }
        throw new WarrenError("runtime_failed", `${name} could not start the sandbox: ${words}`);
      } catch (error) {
        // When the launcher is gone, its START goes on: what it brings up would be found by nobody.
        await launcher.ready().catch(() => {});
        await finish(id);
        throw noSpace(error);
      }
    },
    waitGone: (guest, waitMs) => launcher.kill(guest, 0, waitMs),
    finish,
    hasRemains(id) {
      const paths = layout.sandbox(id);
      const containers = ociPrograms.map((name) => join(layout.runtimeRoot(name), id));
      return [paths.guestPid, paths.uplinkPid, paths.runtimePid, ...containers, ...cgroups.dirs(id)].some(
        (path) => existsSync(path),
      );
    },
  };
}

function containerArgv(
  program: OciProgram,
  root: string,
  paths: SandboxPaths,
  id: string,
  { descriptors, hasCgroups }: { descriptors: number; hasCgroups: boolean },
): string[] {
  return [
    program.path,
    "--root",
    root,
    "--log",
    paths.log,
    "--log-format",
    "json",
    ...(program.name === "crun" ? [`--cgroup-manager=${hasCgroups ? "cgroupfs" : "disabled"}`] : []),
    "run",
    "--detach",
    "--preserve-fds",
    String(descriptors),
    "--pid-file",
    paths.runtimePid,
    "--bundle",
    paths.dir,
    id,
  ];
}

/** What the container runtime complained of last. */
async function runtimeWords(log: string): Promise<string> {
  const file = await open(log, "r").catch(() => undefined);
  if (!file) return SILENCE;
  try {
    const { size } = await file.stat();
    const start = Math.max(0, size - MAX_LOG_BYTES);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(MAX_LOG_BYTES), 0, MAX_LOG_BYTES, start);
    const text = buffer.subarray(0, bytesRead).toString("utf8").trim();
    return lastWords(Buffer.from(messageOf(text.split("\n").at(-1) ?? "")));
  } finally {
    await file.close();
  }
}

function messageOf(line: string): string {
  try {
    const entry = JSON.parse(line) as { msg?: unknown };
    return typeof entry.msg === "string" ? entry.msg : line;
  } catch {
    return line;
  }
}
