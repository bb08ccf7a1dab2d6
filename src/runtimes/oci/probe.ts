import { randomBytes } from "node:crypto";
import { chmod, copyFile } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type { ProbeFinding, ProbeReport, RuntimeSpec } from "../../contracts/runtime.ts";
import type { Isolation } from "../../contracts/sandbox.ts";
import { noStep } from "../../contracts/steps.ts";
import { makeDir } from "../../lib/files.ts";
import { nativeProgram } from "../../lib/native.ts";
import type { CgroupHost } from "../common/cgroup.ts";
import { refuseWeaknesses, weaknessFinding } from "../common/known-weaknesses.ts";
import { captureFinding, probeNetworkCapture } from "../common/network-capture.ts";
import type { Seccomp } from "../common/seccomp.ts";
import type { RuntimeOptions } from "../factory.ts";
import { isUsableGvisor } from "./gvisor.ts";
import type { Layout } from "./layout.ts";
import type { Lifecycle } from "./lifecycle.ts";
import {
  findOciProgram,
  findProgram,
  type GvisorPlatform,
  gvisorPlatforms,
  type OciProgram,
  type OciProgramName,
  ociPrograms,
} from "./programs.ts";
import type { SandboxStore } from "./sandbox-store.ts";
import { createUplinkChoice } from "./uplinks/choice.ts";
import type { MissingUplink, Uplink } from "./uplinks/uplink.ts";

export interface Prober {
  /**
   * The program to use: for containers the one asked for, else the first that works here; for gVisor runsc, with the first
   * platform that works here. Throws `runtime_unavailable`.
   */
  program(isolation?: Isolation): Promise<OciProgram>;
  /** Why there is no open network here, as far as is known. */
  networkMissing(): MissingUplink | undefined;
  /** What carries open network: the first that works, which is tried unless it has worked before. Throws `unsupported`. */
  uplink(): Promise<Uplink>;
  probe(): Promise<ProbeReport>;
  idle(): Promise<void>;
}

export interface ProberOptions {
  options: RuntimeOptions;
  layout: Layout;
  isRootless: boolean;
  store: SandboxStore;
  lifecycle: Lifecycle;
  cgroupHost: CgroupHost;
  getSeccomp(): Promise<Seccomp>;
  discard(path: string): Promise<void>;
  /** Holds the guest program. */
  guestDir: string;
  /** Waits for a sandbox's guest. */
  greet(id: string): Promise<void>;
}

/** Debian 12's own is too old; the script takes a newer one from the same mirror's backports. */
const INSTALL_RUNSC = "scripts/install-runsc.sh";

const MITIGATION = "the user namespace of each sandbox keeps these from being root on the host";

/** Sandboxes of the prober; no engine sees them. */
export const isProbeId = (id: string): boolean => id.startsWith("probe-");

/** Enough for a program that does nothing, with every limit in use that this host has. */
const probeLimits = {
  container: { memoryBytes: 64 << 20, pids: 16 },
  gvisor: { memoryBytes: 256 << 20, pids: 256 },
} as const satisfies Record<Isolation, unknown>;

/** A container runtime, and what happened when a container was started with it. */
interface Trial {
  name: OciProgramName;
  program?: OciProgram;
  error?: WarrenError;
  /** Another way to start this program would not help. */
  isFinal?: boolean;
}

export function createProber(context: ProberOptions): Prober {
  const { options, layout, store, lifecycle, cgroupHost } = context;
  const { onStep = noStep } = options;
  const wanted = options.ociProgram ? [options.ociProgram] : ociPrograms;
  const choices = new Map<Isolation, Promise<Trial[]>>();

  const trials = async (isolation: Isolation): Promise<Trial[]> => {
    const done: Trial[] = [];
    const candidates: { name: OciProgramName; platform?: GvisorPlatform }[] =
      isolation === "gvisor"
        ? gvisorPlatforms.map((platform) => ({ name: "runsc", platform }))
        : wanted.map((name) => ({ name }));
    for (const { name, platform } of candidates) {
      const trial = await tryProgram(name, platform);
      done.push(trial);
      if (!trial.error || trial.isFinal) break;
    }
    return done;
  };

  const tryProgram = async (name: OciProgramName, platform?: GvisorPlatform): Promise<Trial> => {
    const found = await findOciProgram(name);
    const program = found && { ...found, ...(platform ? { platform } : {}) };
    if (!program) {
      const error = new WarrenError("runtime_unavailable", `${name} is not installed`, {
        hint: name === "runsc" ? INSTALL_RUNSC : `apt-get install ${name}`,
      });
      return { name, error, isFinal: name === "runsc" };
    }
    const age = program.name === "runsc" ? tooOld(program) : undefined;
    if (age) return { name, program, error: age, isFinal: true };
    try {
      if (options.strict) refuseWeaknesses(program);
      await startNothing(program);
      return { name, program };
    } catch (error) {
      return { name, program, error: asWarrenError(error) };
    }
  };

  /** A whole sandbox with the program that does nothing in place of the guest. */
  const startNothing = (program: OciProgram) =>
    startProbe(program, probeSpec(program.name === "runsc" ? "gvisor" : "container", cgroupHost));

  const startProbe = async (program: OciProgram, spec: RuntimeSpec, uplink?: Uplink): Promise<void> => {
    const { id } = spec;
    const paths = layout.sandbox(id);
    const noopDir = join(layout.shared, id);
    try {
      await makeDir(noopDir, 0o755);
      await copyFile(nativeProgram("warren-launcher"), join(noopDir, "noop"));
      await chmod(join(noopDir, "noop"), 0o555);
      await store.create({ spec, lower: noopDir }, { asUser: false });
      onStep("oci.probe-made");
      await lifecycle.start({
        program,
        seccomp: await context.getSeccomp(),
        sandbox: { spec, lower: noopDir },
        binds: [],
        paths,
        ...(uplink
          ? { uplink, guestDir: context.guestDir }
          : { args: ["/.warren/noop", "noop"], guestDir: noopDir }),
      });
      if (uplink) await context.greet(id);
      onStep("oci.probe-started");
    } finally {
      await lifecycle.finish(id);
      for (const dir of [...(await store.dirs(id)), noopDir]) await context.discard(dir);
      onStep("oci.probe-finished");
    }
  };

  /** Nothing to say where no sandbox can be started at all: that is told otherwise. */
  const tryUplink = async (uplink: Uplink): Promise<void> => {
    const program = (await chosen("container")).find((trial) => !trial.error)?.program;
    if (!program) return;
    const spec: RuntimeSpec = {
      ...probeSpec("container", cgroupHost),
      network: "open",
      reach: { rules: [], internal: ["0.0.0.0/0", "::/0"] },
    };
    await startProbe(program, spec, uplink);
    onStep("oci.tried-network");
  };
  const uplinkChoice = createUplinkChoice({
    wanted: options.uplink,
    isRootless: context.isRootless,
    attempt: tryUplink,
  });

  const chosen = (isolation: Isolation) => {
    const choice = choices.get(isolation) ?? trials(isolation);
    choices.set(isolation, choice);
    return choice;
  };
  /** After the trials that may be under way, so that nothing runs unseen when the runtime is closed. */
  const chooseAgain = (isolation: Isolation) => {
    const again = () => trials(isolation);
    const choice = (choices.get(isolation) ?? Promise.resolve()).then(again, again);
    choices.set(isolation, choice);
    return choice;
  };

  return {
    async program(isolation = "container") {
      const done = await chosen(isolation);
      const good = done.find((trial) => !trial.error)?.program;
      if (good) return good;
      // What is mended meanwhile works without a new engine.
      choices.delete(isolation);
      const last = done.at(-1)?.error;
      throw new WarrenError(
        "runtime_unavailable",
        isolation === "gvisor"
          ? `gVisor does not work here: ${last?.message}`
          : `no container runtime works here: ${last?.message ?? "none was tried"}`,
        {
          hint:
            done.map((trial) => findingOf(trial)?.fix).find((fix) => fix !== undefined) ??
            "run `warren doctor`",
          cause: last,
        },
      );
    },
    networkMissing: uplinkChoice.missing,
    uplink: uplinkChoice.get,
    async probe() {
      const done = await chooseAgain("container");
      const good = done.find((trial) => !trial.error)?.program;
      const findings: ProbeFinding[] = [];
      for (const trial of done) {
        const finding = findingOf(trial);
        // A runtime that was only the first choice is no error where the next one works.
        if (finding) findings.push({ ...finding, level: good ? "warning" : "error" });
      }
      if (good) {
        findings.push({ level: "ok", message: `${good.name} ${good.version} starts sandboxes` });
        const weakness = weaknessFinding(good, MITIGATION);
        if (weakness) findings.push(weakness);
      }
      findings.push(
        ...(context.isRootless ? [gvisorNeedsRoot] : gvisorFindings(await chooseAgain("gvisor"))),
      );
      if (good) {
        findings.push(...(await uplinkChoice.findings()));
      }
      findings.push(captureFinding(await probeNetworkCapture()), ...(await hostFindings(cgroupHost)));
      return {
        runtime: "oci",
        usable: good !== undefined,
        ...(good ? { version: `${good.name} ${good.version}` } : {}),
        findings,
      };
    },
    async idle() {
      await Promise.allSettled([...choices.values(), uplinkChoice.idle()]);
    },
  };
}

function probeSpec(isolation: Isolation, host: CgroupHost): RuntimeSpec {
  return {
    id: `probe-${randomBytes(6).toString("hex")}`,
    image: { id: "probe", reference: "probe", env: {} },
    env: {},
    workdir: "/",
    hostname: "probe",
    labels: {},
    network: "none",
    isolation,
    readonlyRoot: false,
    tmpfs: [],
    mounts: [],
    limits: {
      memoryBytes: host.limits.includes("memory") ? probeLimits[isolation].memoryBytes : 0,
      cpuNano: host.limits.includes("cpu") ? 1e9 : 0,
      pids: host.limits.includes("pids") ? probeLimits[isolation].pids : 0,
    },
  };
}

/** Known failures and what mends them. */
const remedies: { pattern: RegExp; fix: string }[] = [
  {
    // crun 1.8 on hosts with one mount per cgroup v1 controller, while the empty cgroup2 mount still carries hugetlb.
    pattern: /cgroups in hybrid mode not supported/,
    fix: "mkdir -p /sys/fs/cgroup/hugetlb && mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb",
  },
  {
    pattern: /could not map the ids of/,
    fix: "put the state directory on a filesystem with id-mapped mounts: ext4, xfs or btrfs (--state-dir)",
  },
  {
    pattern: /could not mount the overlay/,
    fix: "modprobe overlay; if that is loaded, put the state directory on ext4, xfs or btrfs (--state-dir)",
  },
  {
    pattern: /could not make a user namespace/,
    fix: "sysctl -w user.max_user_namespaces=28633",
  },
  { pattern: /launcher|guest program/, fix: "make -C native" },
];

function findingOf(trial: Trial): ProbeFinding | undefined {
  if (!trial.error) return undefined;
  const { message, hint } = trial.error;
  const fix = remedies.find((remedy) => remedy.pattern.test(message))?.fix ?? hint;
  return { level: "error", message, ...(fix === undefined ? {} : { fix }) };
}

function tooOld({ version }: OciProgram): WarrenError | undefined {
  if (isUsableGvisor(version)) return undefined;
  return new WarrenError(
    "runtime_unavailable",
    `runsc ${version} is too old: it must be of 2023-07-17 or later`,
    {
      hint: INSTALL_RUNSC,
    },
  );
}

// It has not been made to work with subordinate ids.
const gvisorNeedsRoot: ProbeFinding = {
  level: "warning",
  message: "isolation gvisor is refused: it needs root so far",
  fix: "run the engine as root",
};

/** gVisor is there for those who ask for it, so its absence is no error. */
function gvisorFindings(done: readonly Trial[]): ProbeFinding[] {
  const good = done.find((trial) => !trial.error)?.program;
  if (good) {
    const message = `${good.name} ${good.version} starts sandboxes with isolation gvisor, on its platform ${good.platform}`;
    const weakness = weaknessFinding(good, MITIGATION);
    return [{ level: "ok", message }, ...(weakness ? [weakness] : [])];
  }
  const last = done.at(-1);
  const finding = last && findingOf(last);
  if (!finding) return [];
  return [{ ...finding, level: "warning", message: `${finding.message}: isolation gvisor is refused` }];
}

async function hostFindings(host: CgroupHost): Promise<ProbeFinding[]> {
  const findings: ProbeFinding[] = [];
  if (host.limits.length > 0) {
    findings.push({ level: "ok", message: `cgroup v${host.version} limits ${host.limits.join(", ")}` });
  }
  if (host.refusal) findings.push({ level: "warning", message: host.refusal.why, fix: host.refusal.fix });
  for (const limit of ["memory", "cpu", "pids"] as const) {
    if (!host.limits.includes(limit) && !host.refusal) {
      findings.push({
        level: "warning",
        message: `this host has no cgroup controller for ${limit}: such limits are refused`,
      });
    }
  }
  if (!host.swapLimited) {
    findings.push({
      level: "warning",
      message: "swap can't be limited on this host: memory limits are refused",
      fix: "swapoff -a",
    });
  }
  for (const [program, purpose] of [
    ["skopeo", "from registries can't be pulled"],
    ["umoci", "from registries can't be unpacked"],
    ["buildah", "can't be built"],
  ] as const) {
    if (await findProgram(program)) continue;
    findings.push({
      level: "warning",
      message: `${program} is missing: images ${purpose}`,
      fix: `apt-get install ${program}`,
    });
  }
  return findings;
}

function asWarrenError(error: unknown): WarrenError {
  if (error instanceof WarrenError) return error;
  return new WarrenError("runtime_failed", error instanceof Error ? error.message : String(error), {
    cause: error,
  });
}
