import { WarrenError } from "../../contracts/errors.ts";
import type { ProbeFinding } from "../../contracts/runtime.ts";

/** What has published weaknesses: programs that run containers, the daemon above them, and what builds images. */
type ProgramName = "crun" | "runc" | "runsc" | "docker" | "podman" | "buildah";

export interface ProgramVersion {
  name: ProgramName;
  /** As it says itself: `1.8.1`, `1.1.5+ds1`. */
  version: string;
  /** What it was built from: a commit, or a distributor's own revision. */
  revision?: string;
}

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

// Sources: https://github.com/opencontainers/runc/security/advisories, https://github.com/containers/crun/security/advisories and
// https://github.com/moby/moby/security/advisories.
// CVE-2025-24965 of crun concerns its krun handler alone, which nothing here asks for.
const weaknesses: Record<ProgramName, readonly Weakness[]> = {
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
  // Of dockerd itself: what concerns images that it builds, networks and authorisation plugins is left out, since nothing of that
  // stands between a sandbox and the host here.
  docker: [
    { cve: "CVE-2019-14271", what: "code of a container run at a copy", fixed: ["19.03.1"] },
    { cve: "CVE-2021-21284", what: "remapped root changes its own mapping", fixed: ["19.03.15", "20.10.3"] },
    { cve: "CVE-2021-41091", what: "programs of containers in reach of host users", fixed: ["20.10.9"] },
    { cve: "CVE-2022-24769", what: "inheritable capabilities", fixed: ["20.10.14"] },
    { cve: "CVE-2026-41567", what: "code of a container run at a copy", fixed: ["29.5.1"] },
    { cve: "CVE-2026-41568", what: "race on mount points at a copy", fixed: ["29.5.1"] },
    { cve: "CVE-2026-42306", what: "race on mounts at a copy", fixed: ["29.5.1"] },
  ],
  // https://github.com/containers/podman/security/advisories. Left out: what concerns builds, `kube play`, exports of volumes and
  // hosts in FIPS mode, and CVE-2026-55686 (an image's working directory that is a link), which Podman is never asked to make.
  podman: [{ cve: "CVE-2022-27649", what: "inheritable capabilities", fixed: ["4.0.3"] }],
  // https://github.com/containers/buildah/security/advisories: ways out for whoever writes the Dockerfile, all by mounts of its own.
  buildah: [
    {
      cve: "CVE-2024-1753",
      what: "a mount's source is a link to the host's files",
      fixed: ["1.29.3", "1.31.5", "1.33.7", "1.35.1"],
    },
    { cve: "CVE-2024-9407", what: "a mount's options are not its own", fixed: ["1.33.10", "1.37.4"] },
    { cve: "CVE-2024-9675", what: "a cache outside of its place", fixed: ["1.33.10", "1.37.5"] },
    {
      cve: "CVE-2024-11218",
      what: "a mount's source changed meanwhile",
      fixed: ["1.33.12", "1.35.5", "1.37.6", "1.38.1"],
    },
  ],
};

/** CVE numbers of the published escapes that this version has. Empty for a version that can't be read: nothing is known. */
export function knownWeaknesses(program: ProgramVersion): string[] {
  const version = parseVersion(program.version);
  if (!version) return [];
  return weaknesses[program.name]
    .filter((weakness) => !isFixed(version, weakness.fixed))
    .filter((weakness) => !weakness.backported?.includes(program.revision ?? ""))
    .map((weakness) => weakness.cve);
}

/** What the probe says of them; undefined when there are none. `mitigation` says what stands in their way all the same. */
export function weaknessFinding(program: ProgramVersion, mitigation?: string): ProbeFinding | undefined {
  const cves = knownWeaknesses(program);
  if (cves.length === 0) return undefined;
  const { name, version } = program;
  return {
    level: "warning",
    message: `${name} ${version} has published escapes: ${cves.join(", ")}${mitigation ? `; ${mitigation}` : ""}`,
    fix: fixes[name],
  };
}

/** @throws WarrenError `runtime_unavailable` when there are any: for `--strict` */
export function refuseWeaknesses(program: ProgramVersion): void {
  const cves = knownWeaknesses(program);
  if (cves.length === 0) return;
  const { name, version } = program;
  throw new WarrenError(
    "runtime_unavailable",
    `${name} ${version} has published escapes (${cves.join(", ")}), and --strict refuses it`,
    { hint: fixes[name] },
  );
}

const fixes: Record<ProgramName, string> = {
  runc: "use crun, or runc 1.3.6, 1.4.3 or newer",
  crun: "use crun 1.4.4 or newer",
  runsc: "use a newer runsc",
  docker: "use Docker 29.5.1 or newer",
  podman: "use Podman 4.0.3 or newer",
  buildah: "use Podman 5.3.2 or newer",
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
