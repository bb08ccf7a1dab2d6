import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** How long what has ended may take to go: its parent, or the kernel, may be busy. */
const PATIENCE_MS = 10_000;

/** Host objects that an engine with this owner id left for good: processes, cgroups and mounts, as one word each. */
export async function leftovers(ownerId: string, stateDir: string): Promise<string[]> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const left = await objectsOf(ownerId, stateDir);
    if (left.length === 0 || performance.now() > deadline) return left;
    await sleep(50);
  }
}

async function objectsOf(ownerId: string, stateDir: string): Promise<string[]> {
  const left: string[] = [];
  for (const pid of await processesOf(ownerId)) left.push(`process ${pid}`);
  const controllers = await readdir("/sys/fs/cgroup").catch(() => []);
  for (const name of ["", ...controllers]) {
    const group = join("/sys/fs/cgroup", name, `warren-${ownerId}`);
    const children = await readdir(group, { withFileTypes: true }).catch(() => []);
    left.push(...children.filter((entry) => entry.isDirectory()).map(({ name }) => `${group}/${name}`));
  }
  const mounts = await readFile("/proc/self/mountinfo", "utf8");
  left.push(...mounts.split("\n").filter((line) => line.includes(stateDir)));
  return left;
}

/** Host pids of all processes in cgroups of this owner, or of one of its sandboxes. */
export async function processesOf(ownerId: string, id?: string): Promise<number[]> {
  const group = `/warren-${ownerId}${id === undefined ? "" : `/${id}`}`;
  const found: number[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const groups = await readFile(`/proc/${name}/cgroup`, "utf8").catch(() => "");
    if (groups.includes(group)) found.push(Number(name));
  }
  return found;
}
