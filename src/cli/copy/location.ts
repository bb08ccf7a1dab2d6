import { UsageError } from "../report.ts";

/** One side of `warren cp`. */
export type Location =
  | { kind: "sandbox"; id: string; path: string }
  | { kind: "local"; path: string }
  /** stdin or stdout. */
  | { kind: "stream" };

/** `ID:/path`, `-`, or a local path. `./box:/x` is local. */
export function parseLocation(text: string): Location {
  if (text === "-") {
    return { kind: "stream" };
  }
  const match = /^([A-Za-z0-9][A-Za-z0-9_-]*):(.*)$/s.exec(text);
  if (!match) {
    if (text === "") {
      throw new UsageError("a path must not be empty");
    }
    return { kind: "local", path: text };
  }
  const [, id = "", path = ""] = match;
  if (!path.startsWith("/")) {
    throw new UsageError(
      `${JSON.stringify(text)} needs an absolute path behind the colon`,
      `write ${id}:/… for a path in the sandbox, or ./${text} for a local file of that name`,
    );
  }
  return { kind: "sandbox", id, path };
}

/** Joins an absolute sandbox path and a name. */
export function joinGuest(directory: string, name: string): string {
  return directory.endsWith("/") ? `${directory}${name}` : `${directory}/${name}`;
}

/** Last component of a sandbox path; empty for `/`, `.` and `..`, which name no entry of their own. */
export function guestName(path: string): string {
  const name = path.replace(/\/+$/, "").split("/").at(-1) ?? "";
  return name === "." || name === ".." ? "" : name;
}

/** True when only a directory can be meant: `/x/` and `/x/.`. */
export function meansDirectory(path: string): boolean {
  return path.endsWith("/") || path.endsWith("/.") || path === ".";
}
