import { execFile, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { hostVariable } from "../app/config.ts";
import { UsageError } from "./report.ts";

/** What a command may print: more than any secret. */
const MAX_OUTPUT_BYTES = 1024 * 1024;

/** Where a value comes from: a variable, a file, or what a command prints. Never an argument, which others can read. */
export interface ValueSource {
  kind: "env" | "file" | "cmd";
  /** Name, path or command line. */
  from: string;
}

/** @param what for errors, such as `secret TOKEN` */
export function readGivenValue(what: string, { kind, from }: ValueSource): string {
  if (kind === "env") {
    const value = hostVariable(from);
    if (value !== undefined) return value;
    throw new UsageError(`${what}: there is no variable ${from}`, `export ${from}=…`);
  }
  // Editors and programs end what they write with a line end.
  if (kind === "file") return withoutLineEnd(readFileSync(from, "utf8"));
  const { stdout, status, error } = spawnSync("sh", ["-c", from], {
    encoding: "utf8",
    maxBuffer: MAX_OUTPUT_BYTES,
    // It may ask for a passphrase.
    stdio: ["inherit", "pipe", "inherit"],
  });
  if (error || status !== 0) {
    throw new UsageError(`${what}: its command failed with exit code ${status ?? "none"}`, "run it by hand");
  }
  return withoutLineEnd(stdout);
}

/** What a command prints, while something else goes on: it can ask nobody anything. Rejects with a sentence. */
export function runForValue(command: string, timeoutMs: number, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { encoding: "utf8", maxBuffer: MAX_OUTPUT_BYTES, timeout: timeoutMs, signal } as const;
    const child = execFile("sh", ["-c", command], options, (error, stdout) => {
      if (!error) resolve(withoutLineEnd(stdout));
      // Its own message has the command, and what it printed.
      else
        reject(
          new Error(
            child.exitCode === null
              ? "its command was ended"
              : `its command failed with exit code ${child.exitCode}`,
          ),
        );
    });
    child.stdin?.end();
  });
}

function withoutLineEnd(text: string): string {
  return text.replace(/\r?\n$/, "");
}
