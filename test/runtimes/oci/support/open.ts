import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import type { PreparedImage, Runtime } from "../../../../src/contracts/runtime.ts";
import { silentLogger } from "../../../../src/lib/log.ts";
import type { RuntimeOptions } from "../../../../src/runtimes/factory.ts";
import type { OciProgramName } from "../../../../src/runtimes/oci/programs.ts";
import { removeState } from "../../../../src/runtimes/oci/remove-state.ts";
import { openOciRuntime } from "../../../../src/runtimes/oci/runtime.ts";
import { type Boxes, createBoxes } from "../../common/support/boxes.ts";

/** An oci runtime on a state directory of its own. */
export interface TestRuntime extends Boxes {
  runtime: Runtime;
  stateDir: string;
  ownerId: string;
  /** Opens the state directory again, as the next engine does. The runtime before must be closed. */
  reopen(): Promise<Runtime>;
  /** What of this sandbox is left on the host: mounts, cgroups, processes, directories. */
  leftovers(id: string): string[];
  /** Removes all sandboxes, closes, and expects that nothing is left on the host. */
  close(): Promise<void>;
}

export async function openTestRuntime(
  ociProgram: OciProgramName,
  below = ".",
  options: Pick<RuntimeOptions, "uplink" | "strict"> = {},
): Promise<TestRuntime> {
  const top = mkdtempSync(join(tmpdir(), "woci-"));
  const stateDir = join(top, below);
  mkdirSync(stateDir, { recursive: true });
  const ownerId = `t${randomBytes(5).toString("hex")}`;
  const program = ociProgram === "runsc" ? {} : { ociProgram };
  const open = () => openOciRuntime({ stateDir, ownerId, log: silentLogger, ...program, ...options });
  let runtime = await open();
  let host: PreparedImage | undefined;
  const self: TestRuntime = {
    get runtime() {
      return runtime;
    },
    stateDir,
    ownerId,
    async reopen() {
      runtime = await open();
      return runtime;
    },
    ...createBoxes(
      () => runtime,
      async () => (host ??= await runtime.images.ensure("host")),
      ociProgram === "runsc" ? "gvisor" : "container",
    ),
    leftovers: (id) => leftovers(stateDir, ownerId, id),
    async close() {
      try {
        for (const { id } of await runtime.list()) await runtime.remove(id);
        await runtime.close();
        expect(cgroupsOf(ownerId)).toEqual([]);
        expect(mountsBelow(stateDir)).toEqual([]);
        expect(readdirSync(join(stateDir, "oci", "sandboxes"))).toEqual([]);
        expect(readdirSync(join(stateDir, "oci", "trash"))).toEqual([]);
      } finally {
        await removeState(top);
      }
    },
  };
  return self;
}

function leftovers(stateDir: string, ownerId: string, id: string): string[] {
  const oci = join(stateDir, "oci");
  const dirs = [join(oci, "sandboxes"), join(oci, "run", "crun"), join(oci, "run", "runc")]
    .filter((dir) => existsSync(dir))
    .flatMap((dir) => readdirSync(dir).map((name) => join(dir, name)))
    .filter((path) => path.includes(id));
  const cgroups = cgroupsOf(ownerId).filter((path) => path.includes(id));
  const mounts = mountsBelow(stateDir).filter((line) => line.includes(id));
  return [...dirs, ...cgroups, ...mounts, ...processesIn(`/warren-${ownerId}/${id}`)];
}

/** Directories of an engine's cgroups, its parent included. */
export function cgroupsOf(ownerId: string): string[] {
  const found: string[] = [];
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const [left, right] = line.split(" - ");
    if (!right?.startsWith("cgroup")) continue;
    const base = process.getuid?.() === 0 ? "" : `warren-${process.getuid?.()}`;
    const parent = join(left?.split(" ")[4] ?? "", base, `warren-${ownerId}`);
    if (!existsSync(parent)) continue;
    const children = readdirSync(parent, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    found.push(parent, ...children.map((entry) => join(parent, entry.name)));
  }
  return found;
}

export function mountsBelow(dir: string): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line.includes(dir));
}

/** `pid command` of each process in a cgroup. */
export function processesIn(cgroup: string): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        // What has ended waits for its parent to ask how.
        if (/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) return false;
        return readFileSync(`/proc/${pid}/cgroup`, "utf8")
          .split("\n")
          .some((line) => line.endsWith(cgroup));
      } catch {
        return false;
      }
    })
    .map((pid) => `process ${pid}`);
}
