import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import { noStep, type OnStep } from "../../contracts/steps.ts";
import { makeDir, readText, statOrUndefined, writeAtomically } from "../../lib/files.ts";
import { copyGuest } from "../common/guest-program.ts";

export interface SharedFiles {
  emptyDir: string;
  emptyFile: string;
  /** Directory that holds nothing but the guest program, as `guest`. */
  guestDir: string;
}

/** What all sandboxes have mounted read-only. */
export async function makeSharedFiles(dir: string, onStep: OnStep = noStep): Promise<SharedFiles> {
  const emptyDir = join(dir, "empty");
  const emptyFile = join(dir, "empty-file");
  await makeDir(emptyDir, 0o555).catch(ignoreExisting);
  await writeFile(emptyFile, "", { mode: 0o444, flag: "wx" }).catch(ignoreExisting);
  const guestDir = await copyGuest(dir, () => onStep("oci.guest-copied"));
  // Older guests, and what a probe that was interrupted left. A mount keeps what running sandboxes have of them.
  const current = [emptyDir, emptyFile, guestDir];
  for (const name of await readdir(dir)) {
    if (!current.includes(join(dir, name))) await rm(join(dir, name), { recursive: true, force: true });
  }
  return { emptyDir, emptyFile, guestDir };
}

/** True when the host was booted since `recordBoot` wrote this file: then nothing of ours can be running. */
export async function wasRebooted(file: string): Promise<boolean> {
  const before = await readText(file);
  return before !== undefined && before !== (await bootId());
}

export async function recordBoot(file: string): Promise<void> {
  await writeAtomically(file, await bootId());
}

async function bootId(): Promise<string> {
  return (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
}

/** Directories of the host that a sandbox's root filesystem may be mounted over, in the launcher's mount namespace only. */
const stages = ["/mnt", "/media", "/srv", "/tmp"];

/** One that hides nothing that the launcher or a container runtime still has to reach. */
export async function chooseStage(needed: readonly string[]): Promise<string> {
  for (const stage of stages) {
    const hidesOne = needed.some((path) => path === stage || path.startsWith(`${stage}/`));
    if (!hidesOne && (await statOrUndefined(stage))?.isDirectory()) return stage;
  }
  throw new WarrenError(
    "unsupported",
    `there is no directory to mount root filesystems at (${stages.join(", ")})`,
    {
      hint: "mkdir /mnt",
    },
  );
}

function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== "EEXIST") throw error;
}
