import { WarrenError } from "../../contracts/errors.ts";
import { noStep, type OnStep } from "../../contracts/steps.ts";
import type { Logger } from "../../lib/log.ts";
import { nativeProgram } from "../../lib/native.ts";
import type { ProcessId } from "../common/guest-process.ts";
import type { LauncherGroups } from "../common/payload-groups.ts";
import { defaultEnv, type Link, openLink } from "./launcher-link.ts";
import type { SubordinateIds } from "./subordinate-ids.ts";
import type { UplinkCommand } from "./uplinks/uplink.ts";
import { encoder, launcherOps } from "./wire.ts";

export interface LauncherRun {
  /** `argv[0]` is an absolute path. */
  argv: readonly string[];
  /** Complete. Default: PATH only. */
  env?: Readonly<Record<string, string>>;
  cwd?: string;
  stdin?: Uint8Array;
  /** Milliseconds until the program's process group is killed. */
  timeoutMs: number;
  /** Bytes of stdout and stderr together, the last ones. Default 16 KiB, most 1 MiB. */
  maxOutputBytes?: number;
  signal?: AbortSignal;
  /**
   * Where an ordinary user runs us, whom it runs as: the user (default), root of the user's own namespace, or what may make
   * files of all ids of a sandbox, which are then numbered as inside.
   */
  as?: "user" | "namespace-root" | "unpacker";
}

export interface LauncherRunResult {
  /** Exit code; 128+n when signal n ended it. */
  code: number;
  output: Buffer;
  timedOut: boolean;
}

export interface ReadonlyBind {
  source: string;
  /** Relative to the sandbox's root; no part of it may be a symbolic link. */
  target: string;
  /** A missing source or target is passed over. */
  optional?: boolean;
  /** A directory that shares no inode with its source: sockets, FIFOs, locks and watches don't reach the host's. */
  apart?: boolean;
  /** Mounted after what is of outside, so that nothing lies over it. */
  last?: boolean;
}

/** What of outside a sandbox has mounted. A target is an absolute path inside; it is made where it is missing. */
export type OutsideMount = {
  target: string;
  readonly: boolean;
  /** For a container runtime that mounts it itself: at `<stage>/mounts/<index>` instead of at its target. */
  staged?: boolean;
} & (
  | {
      kind: "tree";
      /** A directory or file of the host by its absolute path without links; ids are the same on both sides. */
      source: string;
    }
  | { kind: "tmpfs"; sizeBytes: number; exec: boolean; mode: number }
);

export interface LauncherStart {
  /** The sandbox's directory. */
  dir: string;
  /** A directory of the host that the root filesystem's mount may hide in the launcher's own mount namespace. */
  stage: string;
  /** Directory inside that is made where it is missing. */
  workdir: string;
  idBase: number;
  idCount: number;
  /** Topmost first. */
  lowers: readonly string[];
  binds: readonly ReadonlyBind[];
  /** Parents before what lies in them. */
  outside?: readonly OutsideMount[];
  argv: readonly string[];
  timeoutMs: number;
  /** Of the container runtime and all that it starts; soft and hard. Core files in bytes. */
  limits: { openFiles: number; core: number };
  /** Absolute paths of the `cgroup.procs` of groups that the container runtime is started in. */
  enter?: readonly string[];
  groups?: LauncherGroups;
  /** For a program that can't do it itself. */
  rootReadonly?: boolean;
  /** What serves open network, and the cgroups that it belongs to. */
  uplink?: UplinkCommand & { groups: readonly string[] };
  /** Cgroups of a relay that hands connections over, for a program that takes no listening socket. */
  relayGroups?: readonly string[];
}

export interface LauncherStartResult {
  /** 0 when the container runtime failed. */
  pid: number;
  startTime: bigint;
  /** How the container runtime itself ended. */
  ended: "exit" | "signal" | "timeout";
  value: number;
}

export interface Launcher {
  /** Resolves once it answers, and so once no START of an earlier launcher is under way. */
  ready(): Promise<void>;
  run(request: LauncherRun): Promise<LauncherRunResult>;
  start(request: LauncherStart): Promise<LauncherStartResult>;
  /** Sends `signal` (0: none) and waits at most `waitMs` for the end; true when the process is gone. */
  kill(target: ProcessId, signal: number, waitMs: number): Promise<boolean>;
  /** Kills all members of the cgroup directories; true when they are empty. Members are checked to be in `suffix`. */
  cgroupKill(dirs: readonly string[], suffix: string, waitMs: number): Promise<boolean>;
  /** Deletes the entry `name` of the directory `trash` with everything in it. */
  rmtree(trash: string, name: string): Promise<void>;
  /** Gives files and directories (absolute paths), with all in them, to one id as the launcher's namespace numbers it. */
  own(paths: readonly string[], id: number): Promise<void>;
  /**
   * Whether it can be mounted for a sandbox, and what it is: a path without links, on a filesystem whose ids can be mapped.
   * Throws what `launcherErrno` tells apart.
   */
  checkOutside(source: string): Promise<"directory" | "file">;
  /**
   * Copies the directory `source`, a layer of overlayfs, to `target`, which must not be there, with all that overlayfs sees of
   * it. Entries of the uppermost directory whose names are in `skip` are left out, and `shift` is added to every id. Gives the
   * bytes that the copy takes of its disk. What was copied before a failure stays.
   */
  copy(
    source: string,
    target: string,
    options: { skip?: readonly string[]; shift?: number; signal?: AbortSignal },
  ): Promise<number>;
  /** Ends the launcher. What it started keeps running, RUN programs excepted. */
  close(): Promise<void>;
}

const noGroups: LauncherGroups = { dirs: [], handed: [], writes: [] };

/** As native/launcher/mounts.h has them. */
function outsideFlags(mount: OutsideMount): number {
  const flags = (mount.readonly ? 0 : 1) | (mount.staged ? 2 : 0);
  if (mount.kind === "tree") return flags;
  return flags | 4 | (mount.exec ? 0 : 8) | (mount.mode << 16);
}

const runOps = {
  user: "run",
  "namespace-root": "runMapped",
  unpacker: "runUnpack",
} as const;

export interface LauncherOptions {
  log: Logger;
  program?: string;
  /** All launchers of one state directory hold it, one after the other. */
  lockFile?: string;
  /** Of the ordinary user who runs us. */
  ids?: SubordinateIds | undefined;
  onStep?: OnStep;
}

/** A client of one launcher process, which is started at the first call and again after it died. */
export function createLauncher(options: LauncherOptions): Launcher {
  const { log, onStep = noStep } = options;
  const program = options.program ?? nativeProgram("warren-launcher");
  let link: Link | undefined;
  let closed = false;

  const connected = (): Link => {
    if (closed) throw new WarrenError("shutting_down", "the runtime is closed");
    if (!link?.alive) link = openLink(program, serveArgs(options), log);
    return link;
  };
  const call = async (
    op: Exclude<keyof typeof launcherOps, "hello" | "cancel" | "keep">,
    body: Buffer,
    signal?: AbortSignal,
  ) => {
    const answer = connected().call(launcherOps[op], body, signal);
    const step = op === "runMapped" || op === "runUnpack" ? "run" : op;
    onStep(`launcher.${step}.sent`);
    const result = await answer;
    onStep(`launcher.${step}.answered`);
    return result;
  };

  return {
    async ready() {
      await connected().call(launcherOps.hello, Buffer.alloc(0));
    },
    async run(request) {
      const body = encoder()
        .u32(request.timeoutMs)
        .u32(request.maxOutputBytes ?? 16_384)
        .str(request.cwd ?? "/")
        .list(request.argv)
        .list(Object.entries(request.env ?? defaultEnv).map(([k, v]) => `${k}=${v}`))
        .bytes(request.stdin ?? new Uint8Array())
        .finish();
      const answer = await call(runOps[request.as ?? "user"], body, request.signal);
      const signalled = answer.u8() === 1;
      const value = answer.u32();
      const flags = answer.u32();
      if (request.signal?.aborted) throw new WarrenError("cancelled", `${request.argv[0]} was cancelled`);
      return { code: signalled ? 128 + value : value, output: answer.bytes(), timedOut: (flags & 1) !== 0 };
    },
    async start(request) {
      const body = encoder()
        .str(request.dir)
        .str(request.stage)
        .str(request.workdir)
        .u32(request.idBase)
        .u32(request.idCount)
        .list(request.lowers)
        .list(request.binds.map((b) => b.source))
        .list(request.binds.map((b) => b.target))
        .u32(request.binds.length);
      for (const bind of request.binds)
        body.u32((bind.optional ? 1 : 0) | (bind.apart ? 2 : 0) | (bind.last ? 4 : 0));
      body
        .list(request.argv)
        .list(Object.entries(defaultEnv).map(([k, v]) => `${k}=${v}`))
        .u32(request.timeoutMs)
        .u32(request.limits.openFiles)
        .u32(request.limits.core);
      const { dirs, handed, leave, writes } = request.groups ?? noGroups;
      body
        .list(dirs)
        .list(handed)
        .str(leave?.from ?? "")
        .str(leave?.to ?? "")
        .list(writes.map(([file]) => file))
        .list(writes.map(([, value]) => value))
        .u32(request.rootReadonly ? 1 : 0)
        .list(request.relayGroups ?? [])
        .list(request.enter ?? []);
      const outside = request.outside ?? [];
      body
        .list(outside.map((mount) => (mount.kind === "tree" ? mount.source : String(mount.sizeBytes))))
        .list(outside.map((mount) => mount.target))
        .u32(outside.length);
      for (const mount of outside) body.u32(outsideFlags(mount));
      const { argv: uplink = [], groups: uplinkGroups = [], readyAt } = request.uplink ?? {};
      body
        .list(uplink)
        .list(uplinkGroups)
        .u32(readyAt === "stdout" ? 1 : 0);
      // crun and runc copy themselves at each start unless they run from memory; runsc is large, and doesn't.
      if (!request.relayGroups) connected().keep(request.argv[0] ?? "");
      const answer = await call("start", body.finish());
      const pid = answer.u32();
      const startTime = answer.u64();
      const ended = (["exit", "signal", "timeout"] as const)[answer.u8()] ?? "exit";
      return { pid, startTime, ended, value: answer.u32() };
    },
    async kill(target, signal, waitMs) {
      const body = encoder().u32(target.pid).u64(target.startTime).u32(signal).u32(waitMs).finish();
      return (await call("kill", body)).u8() === 1;
    },
    async cgroupKill(dirs, suffix, waitMs) {
      const body = encoder().str(suffix).list(dirs).u32(waitMs).finish();
      return (await call("cgroupKill", body)).u8() === 1;
    },
    async rmtree(trash, name) {
      await call("rmtree", encoder().str(trash).str(name).finish());
    },
    async own(paths, id) {
      await call("own", encoder().u32(id).list(paths).finish());
    },
    async checkOutside(source) {
      return (await call("checkOutside", encoder().str(source).finish())).u8() === 1 ? "file" : "directory";
    },
    async copy(source, target, { skip = [], shift = 0, signal }) {
      const body = encoder()
        .str(source)
        .str(target)
        .list(skip)
        .u32(shift >>> 0)
        .finish();
      const answer = await call("copy", body, signal).catch((error: unknown) => {
        if (signal?.aborted) throw new WarrenError("cancelled", "the copy was cancelled", { cause: error });
        throw error;
      });
      answer.u64();
      return Number(answer.u64());
    },
    async close() {
      closed = true;
      await link?.end();
    },
  };
}

function serveArgs({ lockFile, ids }: LauncherOptions): string[] {
  if (!ids) return lockFile === undefined ? ["serve"] : ["serve", lockFile];
  const numbers = [ids.firstUid, ids.firstGid, ids.count].map(String);
  return ["serve", lockFile ?? "", ids.newuidmap, ids.newgidmap, ...numbers];
}
