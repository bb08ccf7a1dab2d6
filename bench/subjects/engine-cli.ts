import { join } from "node:path";
import type { Box, Subject } from "../subject.ts";
import { run, which } from "./process.ts";

// Hosts without CAP_SYS_RESOURCE refuse the engines' own defaults.
const LIMITS = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096"];

/** Podman or Docker through their command line, as a script drives them. The image is imported once from the same files. */
export function engineCli(program: "podman" | "docker"): Subject {
  const image = "warren-bench-busybox:latest";
  let counter = 0;
  const network = ["--network", "none"];
  return {
    name: `${program} (CLI)`,
    async unavailable() {
      if (!which(program)) return `${program} is not installed`;
      try {
        await run([program, "info"]);
        return undefined;
      } catch (error) {
        return `${program} does not work here: ${(error as Error).message.split("\n")[0]}`;
      }
    },
    async prepare(rootfs, directory) {
      const tar = join(directory, `${program}.tar`);
      await run(["tar", "-C", rootfs, "-cf", tar, "."]);
      await run([program, "import", tar, image]);
    },
    async create(): Promise<Box> {
      const name = `warrenbench-${process.pid}-${counter++}`;
      await run([
        program,
        "run",
        "-d",
        "--name",
        name,
        ...network,
        ...LIMITS,
        image,
        "/bin/sh",
        "-c",
        "exec sleep 100000",
      ]);
      await run([program, "exec", name, "/bin/echo", "ready"]);
      return {
        exec: async (argv) => void (await run([program, "exec", name, ...argv])),
        destroy: async () => void (await run([program, "rm", "-f", name])),
      };
    },
    async close() {
      await run([program, "rmi", "-f", image]);
    },
  };
}
