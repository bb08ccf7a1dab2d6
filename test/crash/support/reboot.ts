import { existsSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cgroupMounts, claimsOf, directories, ownerGroup, sandboxPids } from "./host.ts";
import { eventually } from "./invariant.ts";
import type { Lane } from "./lane.ts";

/** What a reboot leaves of a state directory whose engine is dead: its files, and nothing that is the kernel's. */
export async function reboot({ stateDir, world }: Lane): Promise<void> {
  await endSandboxes(stateDir);
  // Another boot's id than that of now: the same to us as now's being another.
  writeFileSync(join(stateDir, "oci/boot"), "00000000-0000-4000-8000-000000000000");
  for (const [name, possible] of world.boxes) {
    world.boxes.set(
      name,
      possible.map((box) => box && (box.status === "error" ? box : { ...box, status: "stopped" as const })),
    );
  }
}

/** Ends whatever runs in a state directory's sandboxes, and removes what they have outside of it. */
export async function endSandboxes(stateDir: string): Promise<void> {
  const groups = existsSync(join(stateDir, "owner"))
    ? cgroupMounts().map((mount) => join(mount, ownerGroup(stateDir)))
    : [];
  for (const group of groups) for (const id of directories(group)) thaw(join(group, id));
  const left = await eventually(() => {
    for (const pid of groups.length > 0 ? sandboxPids(stateDir) : []) endProcess(pid);
    for (const group of groups) removeTree(group);
    return groups.filter((group) => existsSync(group));
  });
  if (left.length > 0) throw new Error(`can't be removed: ${left.join(", ")}`);
  for (const claim of claimsOf(stateDir)) rmSync(claim);
}

export function endProcess(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It is gone already.
  }
}

function thaw(group: string): void {
  for (const [file, word] of [
    ["freezer.state", "THAWED"],
    ["cgroup.freeze", "0"],
  ] as const) {
    if (existsSync(join(group, file))) writeFileSync(join(group, file), word);
  }
}

function removeTree(group: string): void {
  for (const child of directories(group)) removeTree(join(group, child));
  try {
    rmdirSync(group);
  } catch {
    // It has members yet, or is gone.
  }
}
