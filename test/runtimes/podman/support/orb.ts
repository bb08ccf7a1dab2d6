import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const program = fileURLToPath(new URL("./orb.mjs", import.meta.url));

export interface OrbState {
  running: boolean;
  machines: { name: string; state: string }[];
  /** What `orb status` says while it doesn't run. */
  says?: string;
  /** `orb start` does not help. */
  staysDown?: boolean;
  /** What fails, by the first words of its arguments, and with which words. */
  fail?: Record<string, string>;
  /** Programs in a machine that aren't run but answered for: those with all of these arguments; `times`: only so often. */
  answers?: { words: string[]; stdout?: string; stderr?: string; code?: number; times?: number }[];
  /** Beside our environment, of what runs in a machine. */
  env?: Record<string, string>;
}

export interface StandInOrb {
  dir: string;
  /** What it was asked, in order, one line each. */
  asked(): string[];
  state(): OrbState;
  remove(): void;
}

/** Puts an `orb` on our PATH that runs everything on this machine, as orb.mjs says. */
export function standInOrb(state: OrbState): StandInOrb {
  const dir = mkdtempSync(join(tmpdir(), "worb-"));
  const file = join(dir, "state.json");
  const log = `${file}.log`;
  writeFileSync(file, JSON.stringify(state));
  writeFileSync(join(dir, "orb"), `#!/bin/sh\nexec "${process.execPath}" "${program}" "${file}" "$@"\n`);
  chmodSync(join(dir, "orb"), 0o755);
  const { PATH = "", HOME = "" } = process.env;
  // The home is that of the machine's user.
  Object.assign(process.env, { PATH: `${dir}:${PATH}`, HOME: dir });
  return {
    dir,
    asked: () =>
      existsSync(log)
        ? readFileSync(log, "utf8")
            .trim()
            .split("\n")
            .map((line) => (JSON.parse(line) as string[]).join(" "))
        : [],
    state: () => JSON.parse(readFileSync(file, "utf8")),
    remove() {
      Object.assign(process.env, { PATH, HOME });
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
