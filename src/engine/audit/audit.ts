import {
  closeSync,
  constants,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  renameSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { Caller } from "../../contracts/api.ts";
import type { CredentialInfo, CredentialKind } from "../../contracts/credentials.ts";
import type { NetworkDecision, NetworkRules } from "../../contracts/network.ts";
import type { Secret } from "../../contracts/secrets.ts";
import type { SshSignature } from "../../contracts/ssh-agent.ts";
import type { Logger } from "../../lib/log.ts";
import type { Clock } from "../clock.ts";
import { AUDIT_FILE, hashOf, NO_LINE, OLD_FILES, oldFile, parseLink } from "./chain.ts";

/** Of one file. */
const MAX_BYTES = 8 * 1024 * 1024;
/** Decisions may be lost by a power cut for so long; changes of a policy are on disk when their caller is told. */
const SYNC_MS = 1_000;
/** The last line is looked for in so many bytes: more than any record has. */
const TAIL_BYTES = 4 * 1024 * 1024;

export type AuditEntry =
  | ({ type: "decision"; sandbox: string } & NetworkDecision)
  | {
      type: "policy";
      sandbox: string;
      action: "create" | "set" | "change";
      by?: Caller;
      mode: string;
      rules: NetworkRules;
    }
  /** Those that the sandbox has from then on; never with a value. */
  | {
      type: "secrets";
      sandbox: string;
      action: "create" | "put" | "remove";
      /** Which one. */
      name?: string;
      by?: Caller;
      secrets: readonly Secret[];
    }
  /** As above. */
  | {
      type: "credentials";
      sandbox: string;
      action: "create" | "put" | "remove";
      /** Which one. */
      kind?: CredentialKind;
      by?: Caller;
      credentials: readonly CredentialInfo[];
    }
  /** `sandbox`: of a restore the new one, else the one that it was taken of. */
  | {
      type: "snapshot";
      sandbox: string;
      action: "create" | "restore" | "remove";
      snapshot: string;
      by?: Caller;
    }
  | ({ type: "signature"; sandbox: string } & SshSignature);

type Bookkeeping =
  /** Bytes of a line that an earlier engine could not finish, which are gone. */
  | { type: "recovered"; bytes: number }
  /** Records that could not be written, such as on a full disk. */
  | { type: "lost"; count: number };

/** What was decided about network, for whoever asks later: one file of JSON lines, each of which names the one before it. */
export interface Audit {
  /** Never throws: what can't be written is counted, and told in the next record that can be. */
  write(entry: AuditEntry, how?: { durable?: boolean }): void;
  close(): void;
}

export interface AuditOptions {
  /** The engine's state directory, which it has locked. */
  dir: string;
  clock: Clock;
  log: Logger;
  /** Of one file. */
  maxBytes?: number;
}

/** @throws when the file can't be opened */
export function openAudit({ dir, clock, log, maxBytes = MAX_BYTES }: AuditOptions): Audit {
  const path = join(dir, AUDIT_FILE);
  let file = openFile(path);
  const found = readEnd(file);
  let { size, seq, prev } = found.size > 0 ? found : { ...endOf(oldFile(dir, 1)), size: 0 };
  let lost = 0;
  let pending: { cancel(): void } | undefined;
  if (found.torn > 0) {
    ftruncateSync(file, size);
    write({ type: "recovered", bytes: found.torn });
  }

  function append(entry: AuditEntry | Bookkeeping): void {
    const at = new Date(clock.now()).toISOString();
    const line = printable(JSON.stringify({ seq: seq + 1, prev, at, ...entry }));
    const bytes = Buffer.from(`${line}\n`, "latin1");
    try {
      if (size > 0 && size + bytes.length > maxBytes) rotate();
      // One call, so that a killed engine leaves it whole or absent; on a full disk it may be torn.
      const written = writeSync(file, bytes);
      if (written < bytes.length) throw new Error(`only ${written} of ${bytes.length} bytes were written`);
    } catch (error) {
      ftruncateSync(file, size);
      throw error;
    }
    size += bytes.length;
    seq++;
    prev = hashOf(line);
  }

  function rotate(): void {
    fdatasyncSync(file);
    for (let number = OLD_FILES; number > 1; number--) {
      renameIfThere(oldFile(dir, number - 1), oldFile(dir, number));
    }
    renameSync(path, oldFile(dir, 1));
    const next = openFile(path);
    closeSync(file);
    file = next;
    size = 0;
  }

  function write(entry: AuditEntry | Bookkeeping, { durable = false } = {}): void {
    try {
      if (lost > 0) append({ type: "lost", count: lost });
      lost = 0;
      append(entry);
      if (durable) fdatasyncSync(file);
      else {
        pending ??= clock.after(SYNC_MS, () => {
          pending = undefined;
          fdatasync(file, () => {});
        });
      }
    } catch (error) {
      lost++;
      log.error({ err: error, lost }, "the audit log can't be written");
    }
  }

  return {
    write,
    close() {
      pending?.cancel();
      try {
        fdatasyncSync(file);
      } finally {
        closeSync(file);
      }
    },
  };
}

/** A path of ours in a directory of ours: a link there is somebody else's doing. */
function openFile(path: string): number {
  const { O_RDWR, O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
  const file = openSync(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o600);
  if (fstatSync(file).isFile()) return file;
  closeSync(file);
  throw new Error(`${path} is no file`);
}

/** Where the chain goes on. What can't be read begins it anew, which shows when it is followed. */
function readEnd(file: number): { size: number; torn: number; seq: number; prev: string } {
  const { size: all } = fstatSync(file);
  const from = Math.max(0, all - TAIL_BYTES);
  const tail = Buffer.alloc(all - from);
  readSync(file, tail, 0, tail.length, from);
  const end = tail.lastIndexOf(0x0a);
  // No record is as long as that: it is somebody else's file, of which nothing is cut off.
  if (end < 0 && from > 0) return { size: all, torn: 0, seq: 0, prev: NO_LINE };
  const size = end < 0 ? 0 : from + end + 1;
  const begin = end <= 0 ? 0 : tail.lastIndexOf(0x0a, end - 1) + 1;
  const line = tail.subarray(begin, Math.max(begin, end));
  const link = parseLink(line.toString("latin1"));
  return { size, torn: all - size, seq: link?.seq ?? 0, prev: link ? hashOf(line) : NO_LINE };
}

/** Where another file's chain ends, for an engine that was killed while it began a new one. */
function endOf(path: string): { seq: number; prev: string } {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    return { seq: 0, prev: NO_LINE };
  }
  try {
    return readEnd(file);
  } finally {
    closeSync(file);
  }
}

/** Escapes what is not ASCII, so that a line is one line for every reader and nothing on a terminal. */
function printable(json: string): string {
  return json.replace(/[^\x20-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function renameIfThere(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}
