import { z } from "zod";

/** den's `FileInfo` and more. */
export const FileInfo = z
  .object({
    name: z.string(),
    path: z.string(),
    size: z.number().int(),
    mode: z.string().meta({ description: "As `ls -l` prints it: `-rw-r--r--`" }),
    mod_time: z.string(),
    is_dir: z.boolean(),
    type: z.enum([
      "file",
      "directory",
      "symlink",
      "fifo",
      "socket",
      "char_device",
      "block_device",
      "unknown",
    ]),
    permissions: z.number().int().meta({ description: "Low 12 bits of the mode" }),
    uid: z.number().int(),
    gid: z.number().int(),
    target: z.string().optional().meta({ description: "Where a symbolic link points" }),
  })
  .meta({ id: "FileInfo" });
export type FileInfo = z.infer<typeof FileInfo>;

export interface FileDownload {
  info: FileInfo;
  /** The bytes. Ending early (return) closes the transfer. */
  body: AsyncIterable<Uint8Array>;
}

export interface ReadFileOptions {
  /** First byte, default 0. */
  offset?: number;
  /** Bytes at most, default to the end. */
  length?: number;
  signal?: AbortSignal;
}

export interface WriteFileOptions {
  /** Permission bits for a new file, default 0o644. An existing file keeps its own unless this is given. */
  mode?: number;
  /** Make missing parent directories, default true (as den does). */
  parents?: boolean;
  /** Add to the end instead of replacing. */
  append?: boolean;
  signal?: AbortSignal;
}

/** A change below a watched path. `rename` covers both ends of a move. */
export interface WatchEvent {
  type: "create" | "modify" | "delete" | "rename" | "attrib" | "overflow";
  path: string;
}
