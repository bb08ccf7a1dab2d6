import type { FileInfo } from "../contracts/files.ts";
import { brokenProtocol } from "./decoder.ts";
import type { PayloadReader } from "./reader.ts";

/** What the guest tells of one file. */
export interface StatRecord {
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtimeSeconds: number;
  mtimeNanoseconds: number;
  target: Buffer;
}

/** Longest link target: the kernel's PATH_MAX. */
const MAX_TARGET_BYTES = 4096;

export function readStat(r: PayloadReader): StatRecord {
  const record = {
    mode: r.u32(),
    uid: r.u32(),
    gid: r.u32(),
    size: r.u64(),
    mtimeSeconds: r.i64(),
    mtimeNanoseconds: r.u32(),
    target: r.str(),
  };
  if (record.target.length > MAX_TARGET_BYTES) throw brokenProtocol("a link target that is too long");
  return record;
}

const TYPE_BITS = 0o170000;
const PERMISSION_BITS = 0o7777;

const types = new Map<number, readonly [FileInfo["type"], letter: string]>([
  [0o010000, ["fifo", "p"]],
  [0o020000, ["char_device", "c"]],
  [0o040000, ["directory", "d"]],
  [0o060000, ["block_device", "b"]],
  [0o100000, ["file", "-"]],
  [0o120000, ["symlink", "l"]],
  [0o140000, ["socket", "s"]],
]);

/** Bytes that are not UTF-8 in names and targets become U+FFFD. */
export function toFileInfo(path: string, name: string, record: StatRecord): FileInfo {
  const [type, letter] = types.get(record.mode & TYPE_BITS) ?? ["unknown", "?"];
  return {
    name,
    path,
    size: record.size,
    mode: letter + permissionString(record.mode),
    mod_time: rfc3339(record.mtimeSeconds, record.mtimeNanoseconds),
    is_dir: type === "directory",
    type,
    permissions: record.mode & PERMISSION_BITS,
    uid: record.uid,
    gid: record.gid,
    ...(type === "symlink" ? { target: record.target.toString("utf8") } : {}),
  };
}

/** Nine letters, as `ls -l` prints them. */
function permissionString(mode: number): string {
  const triple = (shift: number, special: number, letter: string): string => {
    const bits = (mode >> shift) & 7;
    const x = (bits & 1) !== 0;
    const last = (mode & special) !== 0 ? (x ? letter : letter.toUpperCase()) : x ? "x" : "-";
    return (bits & 4 ? "r" : "-") + (bits & 2 ? "w" : "-") + last;
  };
  return triple(6, 0o4000, "s") + triple(3, 0o2000, "s") + triple(0, 0o1000, "t");
}

/** 0001-01-01, Go's zero time, and the last second of RFC 3339's four-digit years. */
const MIN_SECONDS = -62_135_596_800;
const MAX_SECONDS = Date.UTC(9999, 11, 31, 23, 59, 59) / 1000;

/** With as many digits of the fraction as it needs. */
export function rfc3339(seconds: number, nanoseconds: number): string {
  const s = Math.min(Math.max(seconds, MIN_SECONDS), MAX_SECONDS);
  const whole = new Date(s * 1000).toISOString().slice(0, 19);
  const isWhole = s !== seconds || nanoseconds === 0 || nanoseconds > 999_999_999;
  const fraction = isWhole ? "" : `.${String(nanoseconds).padStart(9, "0").replace(/0+$/, "")}`;
  return `${whole}${fraction}Z`;
}
