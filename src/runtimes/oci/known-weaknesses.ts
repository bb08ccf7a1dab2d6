import type { ProbeFinding } from "../../contracts/runtime.ts";
import type { OciProgram, OciProgramName } from "./programs.ts";

/** A published way from inside a container to the host, by the advisory of the project concerned. */
interface Weakness {
  cve: string;
  what: string;
  /** First release with the fix of each maintained branch, oldest first. All before the first lack it. */
  fixed: readonly string[];
  /** Revisions of distributors, as `--version` tells them, that carry the fix under an old number. */
  backported?: readonly string[];
}

const debian12 = "1.1.5+ds1-1+deb12u1";

// Sources: https://github.com/opencontainers/runc/security/advisories and https://github.com/containers/crun/security/advisories.
// CVE-2025-24965 of crun concerns its krun handler alone, which nothing here asks for.
const weaknesses: Record<OciProgramName, readonly Weakness[]> = {
  runc: [
    { cve: "CVE-2021-30465", what: "symlink exchange during mounts", fixed: ["1.0.0"] },
    { cve: "CVE-2023-27561", what: "a linked /proc disarms masked paths", fixed: ["1.1.5"] },
    { cve: "CVE-2023-28642", what: "a linked /proc disarms AppArmor", fixed: ["1.1.5"] },
    {
      cve: "CVE-2024-21626",
      what: "leaked descriptor as working directory",
      fixed: ["1.1.12"],
      backported: [debian12],
    },
    { cve: "CVE-2024-45310", what: "empty files made on the host", fixed: ["1.1.14", "1.2.0"] },
    { cve: "CVE-2025-31133", what: "race on masked paths", fixed: ["1.2.8", "1.3.3", "1.4.0"] },
    { cve: "CVE-2025-52565", what: "race on /dev/console", fixed: ["1.2.8", "1.3.3", "1.4.0"] },
    { cve: "CVE-2025-52881", what: "redirected writes to /proc", fixed: ["1.2.8", "1.3.3", "1.4.0"] },
    { cve: "CVE-2026-41579", what: "a linked /dev in the image", fixed: ["1.3.6", "1.4.3", "1.5.0"] },
  ],
  // gVisor has CVE numbers only for what crosses a sandbox's boundary (its SECURITY.md) and publishes no advisories. Its own
  // record of them (website/_data/cve-track-record.yml) has this one in code of runsc: the mounts that runc had wrong too,
  // mended by "runsc: validate mount targets" of 2021-07-02. CVE-2023-7258 ends the attacker's own sandbox and no more.
  runsc: [{ cve: "CVE-2021-30465", what: "symlink exchange during mounts", fixed: ["20210712.0"] }],
  crun: [{ cve: "CVE-2022-27650", what: "inheritable capabilities", fixed: ["1.4.4"] }],
};

/** CVE numbers of the published escapes that this version has. Empty for a version that can't be read: nothing is known. */
export function knownWeaknesses(program: Pick<OciProgram, "name" | "version" | "revision">): string[] {
  const version = parseVersion(program.version);
  if (!version) return [];
  return weaknesses[program.name]
    .filter((weakness) => !isFixed(version, weakness.fixed))
    .filter((weakness) => !weakness.backported?.includes(program.revision ?? ""))
    .map((weakness) => weakness.cve);
}

/** What the probe says of them; undefined when there are none. */
export function weaknessFinding(program: OciProgram): ProbeFinding | undefined {
  const cves = knownWeaknesses(program);
  if (cves.length === 0) return undefined;
  return {
    level: "warning",
    message:
      `${program.name} ${program.version} has published escapes: ${cves.join(", ")}; ` +
      "the user namespace of each sandbox keeps these from being root on the host",
    fix: fixes[program.name],
  };
}

const fixes: Record<OciProgramName, string> = {
  runc: "use crun, or runc 1.3.6, 1.4.3 or newer",
  crun: "use crun 1.4.4 or newer",
  runsc: "use a newer runsc",
};

interface Version {
  numbers: readonly [number, number, number];
  /** A release candidate comes before its release. */
  isCandidate: boolean;
}

export function parseVersion(text: string): Version | undefined {
  // runsc is numbered by its date: `release-20240729.0`, and Debian's `0.0~20240729.0`.
  const dated = /(?:^|[-~])(20\d{6})\.(\d{1,4})/.exec(text);
  if (dated) return { numbers: [Number(dated[1]), Number(dated[2]), 0], isCandidate: false };
  const match = /^v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(-rc)?/.exec(text);
  if (!match) return undefined;
  return {
    numbers: [Number(match[1]), Number(match[2]), Number(match[3] ?? 0)],
    isCandidate: match[4] !== undefined,
  };
}

/** True when the version is at or after the fix of its own branch, or after every branch that has one. */
function isFixed(version: Version, fixed: readonly string[]): boolean {
  const releases = fixed.map((text) => parseVersion(text)?.numbers ?? [0, 0, 0]);
  const [major, minor] = version.numbers;
  const own = releases.find(([a, b]) => a === major && b === minor);
  const first = own ?? releases.at(-1);
  if (!first) return false;
  const order = compare(version.numbers, first);
  return order > 0 || (order === 0 && !version.isCandidate);
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < 3; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
