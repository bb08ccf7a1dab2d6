import { readdirSync, readFileSync } from "node:fs";
import { type RawEntry, rawTar } from "../../common/support/raw-tar.ts";

/** A build's context: a Dockerfile, and a static busybox at /bin for images `FROM scratch`. */
export function contextOf(dockerfile: string, ...more: RawEntry[]): Buffer {
  return rawTar(
    { name: "Dockerfile", content: dockerfile },
    { name: "busybox", content: readFileSync("/bin/busybox"), mode: 0o755 },
    ...more,
  );
}

/** Puts the busybox of the context in place, and has it run the commands that follow. */
export const scratch =
  'FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nENV PATH=/bin\nSHELL ["/bin/sh", "-c"]\n';

/** Pids of what sleeps so long by a busybox. */
export function sleeping(seconds: number): string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8") === `busybox\0sleep\0${seconds}\0`;
    } catch {
      return false;
    }
  });
}
