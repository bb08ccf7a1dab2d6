import { execFileSync } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, rm, symlink } from "node:fs/promises";
import { cpus, loadavg, release, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { burstPhase } from "./phases/burst.ts";
import { cliPhase } from "./phases/cli.ts";
import { egressPhase } from "./phases/egress.ts";
import { execPhase } from "./phases/exec.ts";
import { filesPhase } from "./phases/files.ts";
import { idlePhase } from "./phases/idle.ts";
import { lifecyclePhase } from "./phases/lifecycle.ts";
import { limitsPhase } from "./phases/limits.ts";
import type { Phase } from "./phases/phase.ts";
import { Recorder, type Results } from "./results.ts";
import type { Subject } from "./subject.ts";
import { dockerBacking, ociBacking, podmanBacking } from "./subjects/backing.ts";
import { bubblewrap } from "./subjects/bubblewrap.ts";
import { sharedDockerd } from "./subjects/dockerd.ts";
import { docker, podman } from "./subjects/engine-cli.ts";
import { bareOci } from "./subjects/oci-bare.ts";
import { warrenHttp, warrenSdk } from "./subjects/warren.ts";
import { warrenServer } from "./subjects/warren-server.ts";

export interface BenchOptions {
  /** Boxes that each subject makes one after the other; of a slow one a quarter. */
  rounds: number;
  /** Creates at once. */
  burst: number;
  /** Sandboxes that do nothing; 0 leaves that part out. */
  idle: number;
  /** What is done with the ways out of sandboxes; absent: nothing. */
  egress?: {
    /** Rounds in which subjects take turns. */
    rounds: number;
    /** For each rate, and a tenth of it one after the other. */
    requests: number;
    /** Connections at one time, and as many more. */
    connections: number;
    /** Connections after which nothing may have grown. */
    churn: number;
    /** MiB that go each way. */
    mebibytes: number;
    /** And over HTTPS, in each version of HTTP. */
    httpsMebibytes: number;
  };
  /** Size of the large file. */
  largeBytes: number;
  /** Parts of names; a subject whose name has none of them is left out. */
  only?: readonly string[];
  /** Names of parts; others are left out. */
  parts?: readonly string[];
  /** Ends early, with what there is by then. */
  signal: AbortSignal;
}

/** Seconds that each part may take: past that it ends with the rounds that it has. */
const parts: [name: string, phase: Phase, budgetS: number][] = [
  ["create and destroy", lifecyclePhase, 130],
  ["exec", execPhase, 60],
  ["exec at limits", limitsPhase, 60],
  ["files", filesPhase, 90],
  ["burst", burstPhase, 180],
  ["command line", cliPhase, 30],
  // With all of 100 000 connections: ten minutes of it.
  ["egress", egressPhase, 900],
  ["idle", idlePhase, 150],
];

/**
 * Side by side in one run: Warren through HTTP and SDK, and its peers as their users drive them. Subjects take turns
 * within each round, so that a slow moment of the machine hits all of them. A subject that fails is left out from there
 * on, and noted.
 */
export async function runBench(options: BenchOptions): Promise<Results> {
  const recorder = new Recorder();
  const load = loadavg()[0] ?? Number.NaN;
  const scratch = await mkdtemp(join(tmpdir(), "warren-bench-"));
  const rootfs = join(scratch, "rootfs");
  const server = warrenServer(ociBacking("crun"));
  const dockerd = sharedDockerd();
  const all: Subject[] = [
    warrenHttp(server),
    warrenSdk(server),
    bareOci("crun"),
    warrenHttp(warrenServer(ociBacking("runc"))),
    bareOci("runc"),
    bubblewrap(),
    warrenHttp(warrenServer(podmanBacking())),
    podman(),
    warrenHttp(warrenServer(dockerBacking(dockerd))),
    docker(dockerd),
  ];
  const subjects: Subject[] = [];
  const opened: Subject[] = [];
  const say = (line: string): void => void process.stderr.write(`${line}\n`);
  const drop = (subject: Subject, why: unknown): void => {
    const at = subjects.indexOf(subject);
    if (at >= 0) subjects.splice(at, 1);
    recorder.note(`left out: ${subject.name}: ${why instanceof Error ? why.message.split("\n")[0] : why}`);
  };
  try {
    await makeRootfs(rootfs);
    for (const subject of all) {
      if (options.only && !options.only.some((part) => subject.name.includes(part))) continue;
      const why = await subject.unavailable();
      if (why !== undefined) {
        drop(subject, why);
        continue;
      }
      opened.push(subject);
      await subject.prepare(rootfs, scratch).then(
        () => subjects.push(subject),
        (error: unknown) => drop(subject, error),
      );
    }
    for (const [name, phase, budgetS] of parts) {
      if (options.signal.aborted) break;
      if (options.parts && !options.parts.includes(name)) continue;
      const startedAt = performance.now();
      const isOver = () => options.signal.aborted || performance.now() - startedAt > budgetS * 1000;
      await phase({ options, recorder, server, subjects, isOver, drop, name, scratch });
      say(`${name}: ${((performance.now() - startedAt) / 1000).toFixed(0)} s`);
    }
  } finally {
    for (const subject of opened.reverse()) {
      await subject.close().catch((error: unknown) => recorder.note(`${subject.name}: ${String(error)}`));
    }
    await rm(scratch, { recursive: true, force: true });
  }
  const { rounds, burst, idle } = options;
  return {
    date: new Date().toISOString(),
    commit: await commit(),
    machine: {
      kernel: release(),
      cpu: cpus()[0]?.model ?? "unknown",
      cores: cpus().length,
      memoryMiB: Math.round(totalmem() / 2 ** 20),
      node: process.version,
      load,
      versions: ["crun", "runc", "bwrap", "podman", "docker", "tinyproxy"].flatMap(versionOf),
    },
    options: { rounds, burst, idle },
    notes: recorder.notes,
    measures: recorder.measures,
  };
}

async function makeRootfs(rootfs: string): Promise<void> {
  for (const dir of ["bin", "tmp", "proc", "dev", "sys", "etc", "run"])
    await mkdir(join(rootfs, dir), { recursive: true });
  await cp("/bin/busybox", join(rootfs, "bin/busybox"));
  for (const name of ["sh", "echo", "sleep", "true", "cat"])
    await symlink("busybox", join(rootfs, "bin", name));
}

function versionOf(program: string): string[] {
  try {
    const text = execFileSync(program, ["--version"], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    const version = /\d+\.[\d.]+\S*/.exec(text)?.[0].replace(/,$/, "");
    return version === undefined ? [] : [`${program} ${version}`];
  } catch {
    return []; // not installed
  }
}

async function commit(): Promise<string> {
  const info = await readFile(new URL("../../dist/build.json", import.meta.url), "utf8").catch(() => "{}");
  return (JSON.parse(info) as { commit?: string }).commit ?? "unknown";
}
