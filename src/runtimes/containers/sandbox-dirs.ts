import { constants } from "node:fs";
import {
  chmod,
  type FileHandle,
  mkdir,
  open,
  readdir,
  realpath,
  rename,
  rm,
  writeFile,
} from "node:fs/promises";
import type { Socket } from "node:net";
import { join } from "node:path";
import { z } from "zod";
import { WarrenError } from "../../contracts/errors.ts";
import type { NetworkReach, RuntimeLimits, RuntimeSpec } from "../../contracts/runtime.ts";
import { StoredReach, StoredSpec } from "../../contracts/stored-spec.ts";
import { isGone, makeDir, readText, statOrUndefined, writeAtomically } from "../../lib/files.ts";
import { jsonOrUndefined } from "../../lib/parse.ts";
import { connectGuest, guestUnreachable } from "../common/guest-socket.ts";
import { capturedResolverFile } from "../common/network-capture.ts";
import { isSandboxId } from "../common/sandbox-id.ts";
import { GUEST_SOCKET } from "./container-config.ts";

/** What a container driver keeps on disk, all below `<stateDir>/<runtime>`, which nobody else on the host can enter. */
export interface SandboxDirs {
  root: string;
  /** Holds the guest program. */
  shared: string;
  /** Where the guest of this sandbox makes its socket. */
  socketDir(id: string): string;
  /** What it has below /etc: paths of files by where they show. */
  ownFiles(spec: Pick<RuntimeSpec, "id" | "network">): Record<string, string>;
  /** Throws when it exists. */
  create(spec: RuntimeSpec): Promise<void>;
  /** With the limits and the reach that it has now. */
  readSpec(id: string): Promise<RuntimeSpec>;
  changeLimits(id: string, limits: RuntimeLimits): Promise<void>;
  /** Of open network whose rules can change. */
  readNetwork(id: string): Promise<OpenNetwork | undefined>;
  changeNetwork(id: string, network: OpenNetwork): Promise<void>;
  /** Holds what its guest lets out, where that is mounted. */
  guardFile(id: string): string;
  writeGuard(id: string, items: readonly string[]): Promise<void>;
  /** True for one that was not created with the limits that it has. */
  limitsWereChanged(id: string): Promise<boolean>;
  /** That it is held still for a while, and goes on then. */
  noteHeld(id: string): Promise<void>;
  forgetHeld(id: string): Promise<void>;
  /** Those that were noted, by an engine before this one too. */
  listHeld(): Promise<string[]>;
  exists(id: string): Promise<boolean>;
  list(): Promise<string[]>;
  /** Takes away the socket that an earlier guest left. */
  clearSocket(id: string): Promise<void>;
  connect(id: string): Promise<Socket>;
  /** True once it was noted that no socket of a sandbox's crosses to us. */
  needsExec(): Promise<boolean>;
  noteExec(): Promise<void>;
  remove(id: string): Promise<void>;
}

const StoredNetwork = z.object({ reach: StoredReach, nameServers: z.array(z.string()) });

export interface OpenNetwork {
  reach: NetworkReach;
  /** Whom its container was told to ask. */
  nameServers: string[];
}

/** open(2): the file itself, without opening it for anything. Not among Node's constants. */
const O_PATH = 0o10_000_000;

/** `removeTree`: for trees in which a sandbox has left files of users that we can't be. */
export async function openSandboxDirs(
  stateDir: string,
  runtime: string,
  removeTree: (path: string) => Promise<void> = removeOwn,
): Promise<SandboxDirs> {
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  const root = join(await realpath(stateDir), runtime);
  const sandboxes = join(root, "sandboxes");
  const shared = join(root, "shared");
  for (const dir of [root, sandboxes, shared]) await mkdir(dir, { recursive: true, mode: 0o700 });
  await chmod(root, 0o700);
  // A container's processes have other ids than we in most mappings, and reach this by a mount only: root is closed to others.
  await chmod(shared, 0o755);

  const dirOf = (id: string) => {
    if (!isSandboxId(id)) {
      throw new WarrenError("invalid_request", `${JSON.stringify(id)} can't be a sandbox id`);
    }
    return join(sandboxes, id);
  };
  const socketDir = (id: string) => join(dirOf(id), "run");
  const ownFiles = ({ id, network }: Pick<RuntimeSpec, "id" | "network">) => ({
    "/etc/hosts": join(dirOf(id), "hosts"),
    ...(network === "filtered" ? { "/etc/resolv.conf": join(dirOf(id), "resolv.conf") } : {}),
  });
  const specFile = (id: string) => join(dirOf(id), "spec.json");
  const execFile = join(root, "reached-by-exec");
  const limitsFile = (id: string) => join(dirOf(id), "limits.json");
  const networkFile = (id: string) => join(dirOf(id), "network.json");
  const guardFile = (id: string) => join(dirOf(id), "guard");
  const heldFile = (id: string) => join(dirOf(id), "held");
  const list = async () => (await readdir(sandboxes)).filter(isSandboxId);
  const broken = (id: string, cause?: unknown) =>
    new WarrenError("runtime_failed", `the record of sandbox ${id} is broken`, { cause });
  const readNetwork = async (id: string): Promise<OpenNetwork | undefined> => {
    const text = await readText(networkFile(id));
    if (text === undefined) return undefined;
    const stored = StoredNetwork.safeParse(jsonOrUndefined(text));
    if (stored.success) return stored.data;
    throw broken(id, stored.error);
  };
  const remove = async (path: string) => {
    await removeOwn(path).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== "EACCES" && error.code !== "EPERM") throw error;
      await removeTree(path);
    });
  };

  return {
    root,
    shared,
    needsExec: async () => (await readText(execFile)) !== undefined,
    noteExec: () => writeAtomically(execFile, ""),
    socketDir,
    ownFiles,
    async create(spec) {
      const dir = dirOf(spec.id);
      await mkdir(dir, { mode: 0o700 }).catch((cause: NodeJS.ErrnoException) => {
        if (cause.code !== "EEXIST") throw cause;
        throw new WarrenError("sandbox_wrong_state", `the sandbox ${spec.id} exists already`);
      });
      await makeDir(socketDir(spec.id), 0o777);
      // Those inside must be able to read them, and reach them by their mounts only.
      for (const [place, file] of Object.entries(ownFiles(spec))) {
        const text = place === "/etc/hosts" ? hosts(spec.hostname) : capturedResolverFile;
        await writeFile(file, text, { mode: 0o644 });
      }
      await writeAtomically(specFile(spec.id), JSON.stringify(spec));
    },
    async readSpec(id) {
      const [spec, limits, network] = await Promise.all([
        readText(specFile(id)),
        readText(limitsFile(id)),
        readNetwork(id),
      ]);
      if (spec === undefined) throw new WarrenError("sandbox_not_found", `there is no sandbox ${id}`);
      const stored = StoredSpec.safeParse({
        ...(jsonOrUndefined(spec) as object | undefined),
        ...(limits === undefined ? {} : { limits: jsonOrUndefined(limits) }),
        ...(network === undefined ? {} : { reach: network.reach }),
      });
      if (stored.success) return stored.data;
      throw broken(id, stored.error);
    },
    readNetwork,
    changeNetwork: (id, network) => writeAtomically(networkFile(id), JSON.stringify(network)),
    guardFile,
    async writeGuard(id, items) {
      await writeAtomically(guardFile(id), items.join(","));
      // Root inside may be any user of ours.
      await chmod(guardFile(id), 0o644);
    },
    changeLimits: (id, limits) => writeAtomically(limitsFile(id), JSON.stringify(limits)),
    limitsWereChanged: async (id) => (await statOrUndefined(limitsFile(id))) !== undefined,
    exists: async (id) => isSandboxId(id) && (await statOrUndefined(dirOf(id))) !== undefined,
    list,
    noteHeld: (id) => writeAtomically(heldFile(id), ""),
    forgetHeld: (id) => rm(heldFile(id), { force: true }),
    async listHeld() {
      const held = async (id: string) => ((await statOrUndefined(heldFile(id))) ? [id] : []);
      return (await Promise.all((await list()).map(held))).flat();
    },
    async clearSocket(id) {
      for (const dir of [dirOf(id), socketDir(id)]) await remove(join(dir, GUEST_SOCKET));
    },
    async connect(id) {
      const own = join(dirOf(id), GUEST_SOCKET);
      try {
        return await connectTo(own, id);
      } catch (error) {
        if (!(error instanceof WarrenError && isGone(error.cause))) throw error;
      }
      return await takeSocket(join(socketDir(id), GUEST_SOCKET), own, id);
    },
    remove: async (id) => {
      if (isSandboxId(id)) await remove(dirOf(id));
    },
  };
}

function hosts(hostname: string): string {
  return `127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t${hostname}\n`;
}

async function removeOwn(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true });
}

/**
 * Connects, and moves the guest's socket to where nothing inside can reach it: what a sandbox puts in its place later, nobody
 * looks at. One that does not answer stays, for those who reach it from inside.
 */
async function takeSocket(from: string, to: string, id: string): Promise<Socket> {
  const socket = await connectTo(from, id);
  try {
    await rename(from, to);
    return socket;
  } catch (cause) {
    socket.destroy();
    throw guestUnreachable(id, cause);
  }
}

/**
 * Until it is moved, a sandbox may make its guest's socket a link to any socket of the host. So exactly the file that was
 * looked at is connected to, whatever has its name by then.
 */
async function connectTo(path: string, id: string): Promise<Socket> {
  const file = await openSocket(path).catch((cause: unknown) => {
    throw guestUnreachable(id, cause);
  });
  try {
    return await connectGuest(`/proc/self/fd/${file.fd}`, id);
  } finally {
    await file.close();
  }
}

async function openSocket(path: string): Promise<FileHandle> {
  const file = await open(path, O_PATH | constants.O_NOFOLLOW);
  try {
    if ((await file.stat()).isSocket()) return file;
  } catch (error) {
    await file.close();
    throw error;
  }
  await file.close();
  throw new Error(`${path} is no socket`);
}
