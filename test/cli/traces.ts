import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Contents of all files, as far as they are files. */
export function filesBelow(dir: string): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), "latin1"));
}

/** Arguments and environments of all processes of this machine. */
function processes(): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) =>
      ["environ", "cmdline"].map((what) => {
        try {
          return readFileSync(`/proc/${pid}/${what}`, "latin1");
        } catch {
          return ""; // gone
        }
      }),
    );
}

/** Where what is to be nowhere could be: all files below a directory, and all that processes show of themselves. */
export const everywhere = (dir: string): string[] => [...filesBelow(dir), ...processes()];
