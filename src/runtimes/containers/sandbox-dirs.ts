import { constants } from "node:fs";
import { chmod, mkdir, open, readdir, realpath, rm } from "node:fs/promises";
import { connect as connectSocket, type Socket } from "node:net";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeSpec } from "../../contracts/runtime.ts";
import { makeDir, readText, writeAtomically } from "../../lib/files.ts";
import { isSandboxId } from "../common/sandbox-id.ts";
import { GUEST_SOCKET } from "./container-config.ts";

/** What a container driver keeps on disk, all below `<stateDir>/<runtime>`, which nobody else on the host can enter. */
export interface SandboxDirs {
  root: string;
  /** Holds the guest program. */
  shared: string;
  /** Where the guest of this sandbox makes its socket. */
  socketDir(id: string): string;
  /** Throws when it exists. */
  create(spec: RuntimeSpec): Promise<void>;
  readSpec(id: string): Promise<RuntimeSpec>;
  writeSpec(spec: RuntimeSpec): Promise<void>;
  exists(id: string): Promise<boolean>;
  list(): Promise<string[]>;
  /** Takes away the socket that an earlier guest left. */
  clearSocket(id: string): Promise<void>;
  connect(id: string): Promise<Socket>;
  remove(id: string): Promise<void>;
}

/** open(2): the file itself, without opening it for anything. Not among Node's constants. */
const O_PATH = 0o10_000_000;

export async function openSandboxDirs(stateDir: string, runtime: string): Promise<SandboxDirs> {
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
  const specFile = (id: string) => join(dirOf(id), "spec.json");
  const writeSpec = (spec: RuntimeSpec) => writeAtomically(specFile(spec.id), JSON.stringify(spec));

  return {
    root,
    shared,
    socketDir,
    async create(spec) {
      const dir = dirOf(spec.id);
      await mkdir(dir, { mode: 0o700 }).catch((cause: NodeJS.ErrnoException) => {
        if (cause.code !== "EEXIST") throw cause;
        throw new WarrenError("sandbox_wrong_state", `the sandbox ${spec.id} exists already`);
      });
      await makeDir(socketDir(spec.id), 0o777);
      await writeSpec(spec);
    },
    async readSpec(id) {
      const text = await readText(specFile(id));
      if (text === undefined) throw new WarrenError("sandbox_not_found", `there is no sandbox ${id}`);
      // Written by this driver in a directory that only its owner can reach.
      return JSON.parse(text) as RuntimeSpec;
    },
    writeSpec,
    exists: async (id) => (await readText(specFile(id))) !== undefined,
    list: async () => (await readdir(sandboxes)).filter(isSandboxId),
    clearSocket: (id) => rm(join(socketDir(id), GUEST_SOCKET), { force: true, recursive: true }),
    connect: (id) => connectInside(join(socketDir(id), GUEST_SOCKET), id),
    remove: (id) => rm(dirOf(id), { recursive: true, force: true }),
  };
}

/**
 * The guest's socket is in a directory that a sandbox writes to: what is there may be a link to any socket of the host.
 * So exactly the file that was looked at is connected to, whatever has its name by then.
 */
async function connectInside(path: string, id: string): Promise<Socket> {
  const fail = (cause: unknown) =>
    new WarrenError("guest_failed", `the guest of sandbox ${id} can't be reached`, { cause });
  const file = await open(path, O_PATH | constants.O_NOFOLLOW).catch((cause: unknown) => {
    throw fail(cause);
  });
  try {
    if (!(await file.stat()).isSocket()) throw fail(new Error(`${path} is no socket`));
    return await new Promise<Socket>((resolve, reject) => {
      // Half-close is part of the guest protocol's DIAL.
      const socket = connectSocket({ path: `/proc/self/fd/${file.fd}`, allowHalfOpen: true });
      socket.once("connect", () => {
        socket.removeAllListeners("error");
        resolve(socket);
      });
      socket.once("error", (cause) => reject(fail(cause)));
    });
  } finally {
    await file.close();
  }
}
