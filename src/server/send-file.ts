import type { ServerResponse } from "node:http";
import type { FileDownload, FileInfo } from "../contracts/files.ts";
import { flushed } from "./flushed.ts";
import { breakOff, writableOf } from "./outgoing.ts";

/** Carries what `FileDownload.info` holds beside name and path, which the client knows. ASCII by construction. */
const FILE_INFO_HEADER = "x-warren-file-info";

export interface SendFileOptions {
  range: { offset?: number | undefined; length?: number | undefined };
  headOnly: boolean;
  /** Makes a browser save the file under this path's last name. */
  attachmentPath?: string;
}

/** Streams a file as fast as the client takes it. A failure half way breaks the connection, so that nobody takes a part for the whole. */
export async function sendFile(
  outgoing: ServerResponse,
  { info, body }: FileDownload,
  { range, headOnly, attachmentPath }: SendFileOptions,
): Promise<void> {
  const length = expectedLength(info, range);
  const chunks = body[Symbol.asyncIterator]();
  try {
    // Read before the head is sent, so that a failure at the start has its own status.
    let next = await chunks.next();
    outgoing.writeHead(200, {
      "content-type": "application/octet-stream",
      ...lastModified(info.mod_time),
      [FILE_INFO_HEADER]: describe(info),
      ...(length === undefined ? {} : { "content-length": length }),
      ...(attachmentPath === undefined
        ? {}
        : { "content-disposition": `attachment; filename="${safeName(attachmentPath)}"` }),
    });
    let left = length ?? Number.POSITIVE_INFINITY;
    while (!headOnly && !next.done && left > 0 && !writableOf(outgoing).destroyed) {
      const chunk = next.value;
      // A file that grows meanwhile is sent as long as it was when the length was announced.
      const part = chunk.length > left ? chunk.subarray(0, left) : chunk;
      left -= part.length;
      if (!outgoing.write(part)) await flushed(outgoing);
      next = await chunks.next();
    }
    const isWhole = headOnly || length === undefined || left === 0;
    if (isWhole) outgoing.end();
    else breakOff(outgoing);
  } finally {
    await chunks.return?.();
  }
}

/** Bytes that will come; undefined where the size says nothing, as for files of /proc. */
function expectedLength(
  info: FileInfo,
  { offset = 0, length }: SendFileOptions["range"],
): number | undefined {
  if (info.size === 0) return undefined;
  return Math.min(Math.max(info.size - offset, 0), length ?? Number.POSITIVE_INFINITY);
}

/** Absent for times that HTTP can't write: files may claim any. */
function lastModified(time: string): Record<string, string> {
  const date = new Date(time);
  const year = date.getUTCFullYear();
  return year >= 1970 && year <= 9999 ? { "last-modified": date.toUTCString() } : {};
}

function describe({ name: _name, path: _path, target: _target, ...info }: FileInfo): string {
  return JSON.stringify(info);
}

/** den's rule: anything but these would have to be escaped, and browsers disagree on how. */
function safeName(path: string): string {
  const name = path.split("/").findLast((part) => part !== "") ?? "";
  return name.replace(/[^\w.-]/g, "_") || "download";
}
