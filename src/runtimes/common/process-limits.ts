import { readFile } from "node:fs/promises";

export interface HardLimits {
  openFiles: number;
  /** Bytes. */
  core: number;
  processes: number;
}

/** Of this process, from /proc/self/limits. */
export async function readHardLimits(): Promise<HardLimits> {
  return parseHardLimits(await readFile("/proc/self/limits", "utf8"));
}

export function parseHardLimits(text: string): HardLimits {
  const hard = (name: string) => {
    const value = new RegExp(`^${name}\\s+\\S+\\s+(\\S+)`, "m").exec(text)?.[1];
    return value === undefined || value === "unlimited" ? Number.MAX_SAFE_INTEGER : Number(value);
  };
  return {
    openFiles: hard("Max open files"),
    core: hard("Max core file size"),
    processes: hard("Max processes"),
  };
}
