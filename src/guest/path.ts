import { WarrenError } from "../contracts/errors.ts";

/** The kernel's PATH_MAX, with the NUL. */
const PATH_MAX = 4096;

/** An absolute path that a C program can take, or `invalid_path`. */
export function checkPath(path: string): string {
  if (!path.startsWith("/")) throw new WarrenError("invalid_path", `${quote(path)} is not an absolute path`);
  if (path.includes("\0")) throw new WarrenError("invalid_path", `${quote(path)} has a NUL byte in it`);
  if (Buffer.byteLength(path) >= PATH_MAX) {
    throw new WarrenError("invalid_path", `the path ${quote(path)} is longer than ${PATH_MAX - 1} bytes`);
  }
  return path;
}

/** For messages: one line, and not too long. */
export function quote(path: string): string {
  return JSON.stringify(path.length > 200 ? `${path.slice(0, 200)}…` : path);
}

/** Last component of an absolute path; `/` for the root. */
export function baseName(path: string): string {
  return (
    path
      .split("/")
      .filter((part) => part !== "")
      .at(-1) ?? "/"
  );
}

export function joinPath(directory: string, name: string): string {
  return directory.endsWith("/") ? directory + name : `${directory}/${name}`;
}
