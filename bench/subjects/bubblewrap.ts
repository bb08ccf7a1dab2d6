import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Box, Subject } from "../subject.ts";
import { filesThrough, run, which } from "./process.ts";

/** bubblewrap has no daemon and no id: `exec` enters its namespaces with nsenter. */
export function bubblewrap(): Subject {
  let lower = "";
  let scratch = "";
  let counter = 0;
  return {
    name: "bubblewrap",
    isSlow: false,
    unavailable: async () => (which("bwrap") ? undefined : "bwrap is not installed"),
    async prepare(rootfs, directory) {
      lower = rootfs;
      scratch = join(directory, "bwrap");
      await mkdir(scratch, { recursive: true });
    },
    async create(): Promise<Box> {
      const home = join(scratch, String(counter++));
      await mkdir(home);
      const child = spawn(
        "bwrap",
        [
          ...["--ro-bind", lower, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"],
          ...[
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
            "--unshare-uts",
            "--info-fd",
            "3",
            "--die-with-parent",
          ],
          ...["/bin/sh", "-c", "echo ready; exec sleep 100000"],
        ],
        { stdio: ["ignore", "pipe", "inherit", "pipe"] },
      );
      const info = child.stdio[3] as NodeJS.ReadableStream;
      let text = "";
      while (!text.includes("}")) text += String(((await once(info, "data")) as [Buffer])[0]);
      await once(child.stdout as NodeJS.ReadableStream, "data");
      const pid = String((JSON.parse(text) as { "child-pid": number })["child-pid"]);
      const namespaces = ["--mount", "--pid", "--net", "--ipc", "--uts", "--root"];
      const inside = ["nsenter", "--target", pid, ...namespaces, "--"];
      return {
        exec: async (argv) => void (await run([...inside, ...argv])),
        ...filesThrough(inside),
        destroy: () => ended(child),
      };
    },
    close: async () => {},
  };
}

async function ended(child: ChildProcess): Promise<void> {
  const exit = once(child, "exit");
  child.kill("SIGKILL");
  await exit;
}
