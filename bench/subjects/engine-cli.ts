import { rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Box, Subject } from "../subject.ts";
import { BENCH_CGROUP, removeBenchCgroups } from "./cgroup.ts";
import type { SharedDockerd } from "./dockerd.ts";
import { run, which } from "./process.ts";

// Hosts without CAP_SYS_RESOURCE refuse the engines' own defaults.
const LIMITS = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096"];
// Podman alone gives a main command ten seconds, in which `sleep` as PID 1 hears no SIGTERM.
const REMOVE = { podman: ["rm", "-f", "-t", "0"], docker: ["rm", "-f"] };
const RUN = ["--network", "none", "--cgroup-parent", `/${BENCH_CGROUP}`];
const IMAGE = "warren-bench-busybox:latest";

/** Podman through its command line, as a script drives it, with storage of its own. */
export function podman(): Subject {
  return engineCli("podman", async (scratch) => ({
    argv: [
      "podman",
      ...["--root", join(scratch, "podman"), "--runroot", join(scratch, "podman-run")],
      ...["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none"],
      ...["--tmpdir", join(scratch, "podman-tmp")],
    ],
  }));
}

/** Docker through its command line. */
export function docker(dockerd: SharedDockerd): Subject {
  return engineCli("docker", async (scratch) => {
    const { url } = await dockerd.get(scratch);
    return { argv: ["docker", "--host", url], close: () => dockerd.release() };
  });
}

interface Engine {
  argv: string[];
  close?(): Promise<void>;
}

function engineCli(program: "podman" | "docker", open: (scratch: string) => Promise<Engine>): Subject {
  let engine: Engine | undefined;
  let scratch = "";
  let counter = 0;
  const command = (...args: string[]): string[] => [...(engine?.argv ?? [program]), ...args];
  return {
    name: `${program} (CLI)`,
    isSlow: true,
    async unavailable() {
      const needed = program === "docker" ? ["docker", "dockerd"] : ["podman"];
      const missing = needed.find((name) => !which(name));
      return missing && `${missing} is not installed`;
    },
    async prepare(rootfs, directory) {
      scratch = directory;
      engine = await open(directory);
      const tar = join(directory, `${program}.tar`);
      await run(["tar", "-C", rootfs, "-cf", tar, "."]);
      await run(command("import", tar, IMAGE));
    },
    async create(): Promise<Box> {
      const name = `warrenbench-${process.pid}-${counter++}`;
      const main = ["/bin/sh", "-c", "exec sleep 100000"];
      await run(command("run", "-d", "--name", name, ...RUN, ...LIMITS, IMAGE, ...main));
      await run(command("exec", name, "/bin/echo", "ready"));
      const file = join(scratch, `${name}.file`);
      return {
        exec: async (argv) => void (await run(command("exec", name, ...argv))),
        async write(path, bytes) {
          await writeFile(file, bytes);
          await run(command("cp", file, `${name}:${path}`));
        },
        async read(path) {
          await run(command("cp", `${name}:${path}`, file));
          return (await stat(file)).size;
        },
        async destroy() {
          await run(command(...REMOVE[program], name));
          await rm(file, { force: true });
        },
      };
    },
    async close() {
      await run(command("rmi", "-f", IMAGE)).catch(() => {}); // its storage goes with the scratch directory
      await engine?.close?.();
      await removeBenchCgroups();
    },
  };
}
