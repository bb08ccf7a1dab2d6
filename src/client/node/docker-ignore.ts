import dockerIgnore from "@balena/dockerignore";
import { WarrenError } from "../../contracts/errors.ts";

/** What of a build's context is left out. Paths are relative, with `/` between their parts. */
export interface Ignores {
  ignores(path: string): boolean;
  /** Something below this ignored directory may be taken in again by a line with `!`. */
  mayHoldKept(directory: string): boolean;
}

/** `file`: its name, for messages. Means what Docker makes of it, upper and lower case being different. */
export function parseDockerIgnore(text: string, file: string): Ignores {
  // Its types speak of a module with a default export, and Node gives what it exports itself.
  const create = dockerIgnore as unknown as typeof dockerIgnore.default;
  const rules = create({ ignorecase: false }).add(text.replace(/^\ufeff/, ""));
  // It remembers each path that it was asked about, in an object that already has a `constructor`.
  Object.defineProperty(rules, "_cache", { value: new Proxy({}, { has: () => false, set: () => true }) });
  const kept = text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line.startsWith("!"))
    .map((line) =>
      line
        .slice(1)
        .trim()
        .split("/")
        .filter((part) => part !== "" && part !== "."),
    );

  return {
    ignores(path) {
      try {
        return rules.ignores(path);
      } catch (cause) {
        // Patterns become regular expressions, when they are first asked.
        throw new WarrenError("invalid_request", `${file} has a pattern that makes no sense`, {
          cause,
          hint: "see to the brackets in it",
        });
      }
    },
    mayHoldKept: (directory) => kept.some((pattern) => reaches(pattern, directory.split("/"))),
  };
}

/** True unless it is plain from its literal parts that the pattern names nothing below the directory. */
function reaches(pattern: readonly string[], directory: readonly string[]): boolean {
  for (const [i, part] of directory.entries()) {
    const wanted = pattern[i];
    if (wanted === undefined) return true;
    if (wanted.includes("**")) return true;
    if (!/[*?[\\]/.test(wanted) && wanted !== part) return false;
  }
  return true;
}
