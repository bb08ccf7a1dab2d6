import type { Connect } from "./connection.ts";
import { datagrams } from "./datagrams.ts";
import { brokenProtocol } from "./decoder.ts";
import { accept, acceptService, dial } from "./dial.ts";
import { encodeFrame } from "./encoder.ts";
import { type ErrnoOverrides, linuxErrno } from "./errors.ts";
import { readStat, toFileInfo } from "./file-info.ts";
import { FEATURE_CAPTURE, FEATURE_SERVICES, PROTOCOL, replies, requests } from "./frames.ts";
import { list } from "./list.ts";
import { logs } from "./logs.ts";
import { waitMain } from "./main-command.ts";
import { baseName, checkPath, quote } from "./path.ts";
import { readFile } from "./read-file.ts";
import { readPayload } from "./reader.ts";
import { ask } from "./simple.ts";
import { spawn } from "./spawn.ts";
import type { GuestClient } from "./types.ts";
import { watch } from "./watch.ts";
import { writeFile } from "./write-file.ts";

/** How long, in milliseconds, a guest may take. */
export interface GuestTimeouts {
  /** For its first answer. */
  answerMs: number;
  /** For the start of a command, which may have to be loaded from a slow disk. */
  spawnMs: number;
  /** For the next bytes of a transfer. */
  stallMs: number;
  /** For a whole listing, however steadily it comes. */
  listMs: number;
  /** For the removal of a tree, which has no answer before its end. */
  removeMs: number;
}

const defaults: GuestTimeouts = {
  answerMs: 10_000,
  spawnMs: 30_000,
  stallMs: 60_000,
  listMs: 300_000,
  removeMs: 600_000,
};

const RENAME_NO_REPLACE = 1;
const MKDIR_PARENTS = 1;
const STAT_FOLLOW = 1;
const removeFlags = { tree: 1, missingOk: 2 } as const;
const DIRECTORY_MODE = 0o755;
/** Most of a u32. */
const MAX_GRACE_MS = 2 ** 32 - 1;

const renameOverrides: ErrnoOverrides = {
  [linuxErrno.EINVAL]: ["invalid_request", "a directory can't be moved into itself"],
};
const removeOverrides: ErrnoOverrides = {
  [linuxErrno.EINVAL]: ["invalid_path", "this can't be removed"],
};

/** A `CreateGuestClient`; tests give shorter times. */
export function createGuestClient(connect: Connect, timeouts: Partial<GuestTimeouts> = {}): GuestClient {
  const { answerMs, spawnMs, stallMs, listMs, removeMs } = { ...defaults, ...timeouts };
  const answer = { answerTimeoutMs: answerMs };
  const transfer = { answerTimeoutMs: answerMs, stallTimeoutMs: stallMs };

  /** A request that is answered with OK. */
  async function order(
    frame: Buffer,
    subject: string,
    overrides?: ErrnoOverrides,
    ms = answerMs,
  ): Promise<void> {
    await ask(connect, {
      frame,
      subject,
      reply: replies.ok,
      answerTimeoutMs: ms,
      ...(overrides === undefined ? {} : { overrides }),
    });
  }

  return {
    async hello() {
      const frame = encodeFrame(requests.hello).finish();
      const r = readPayload(await ask(connect, { ...answer, frame, reply: replies.info, subject: "hello" }));
      const protocol = r.u32();
      const features = r.u32();
      const version = r.str().toString("utf8").slice(0, 64);
      r.end();
      if (protocol !== PROTOCOL) throw brokenProtocol(`version ${protocol} of it`);
      return {
        protocol,
        version,
        captures: (features & FEATURE_CAPTURE) !== 0,
        hasServices: (features & FEATURE_SERVICES) !== 0,
      };
    },
    spawn: (request, options) =>
      spawn(connect, request, { signal: options?.signal, answerTimeoutMs: spawnMs }),
    waitMain: (options) => waitMain(connect, { ...answer, signal: options?.signal }),
    logs: (from, options) => logs(connect, from, { ...answer, signal: options.signal }),
    async shutdown(graceMs) {
      const ms = Math.min(Math.max(Math.ceil(graceMs), 0), MAX_GRACE_MS);
      await order(encodeFrame(requests.shutdown).u32(ms).finish(), "shutdown");
    },
    readFile: (path, options = {}) =>
      readFile(connect, path, options, { ...transfer, signal: options.signal }),
    writeFile: (path, body, options = {}) =>
      writeFile(connect, path, body, options, { ...transfer, signal: options.signal }),
    async stat(path, options) {
      const frame = encodeFrame(requests.stat)
        .str(checkPath(path))
        .u32(options?.follow ? STAT_FOLLOW : 0)
        .finish();
      const r = readPayload(
        await ask(connect, { ...answer, frame, reply: replies.stat, subject: quote(path) }),
      );
      const record = readStat(r);
      r.end();
      return toFileInfo(path, baseName(path), record);
    },
    list: (path) => list(connect, path, { ...transfer, totalTimeoutMs: listMs }),
    async mkdir(path, options) {
      const flags = options?.parents ? MKDIR_PARENTS : 0;
      const mode = options?.mode ?? DIRECTORY_MODE;
      await order(
        encodeFrame(requests.mkdir).str(checkPath(path)).u32(mode).u32(flags).finish(),
        quote(path),
      );
    },
    async rename(from, to, options) {
      const flags = options?.noReplace ? RENAME_NO_REPLACE : 0;
      const frame = encodeFrame(requests.rename).str(checkPath(from)).str(checkPath(to)).u32(flags).finish();
      await order(frame, `${quote(from)} to ${quote(to)}`, renameOverrides);
    },
    async remove(path, options) {
      const flags =
        (options?.recursive ? removeFlags.tree : 0) | (options?.missingOk ? removeFlags.missingOk : 0);
      const frame = encodeFrame(requests.remove).str(checkPath(path)).u32(flags).finish();
      await order(frame, quote(path), removeOverrides, options?.recursive ? removeMs : answerMs);
    },
    async chmod(path, mode) {
      await order(
        encodeFrame(requests.chmod)
          .str(checkPath(path))
          .u32(mode & 0o7777)
          .finish(),
        quote(path),
      );
    },
    watch: (path, options) => watch(connect, path, options, { ...answer, signal: options.signal }),
    datagrams: (port, sink) => datagrams(connect, port, sink, answer),
    dial: (port, options = {}) => dial(connect, port, options, answer),
    accept: (signal) => accept(connect, signal, answer),
    async listen(service, at) {
      const [path, port] = "path" in at ? [checkPath(at.path), 0] : ["", at.port];
      const subject = path === "" ? `port ${port} of the sandbox` : quote(path);
      await order(encodeFrame(requests.listen).u8(service).str(path).u16(port).finish(), subject);
    },
    acceptService: (service, signal) => acceptService(connect, service, signal, answer),
  };
}
