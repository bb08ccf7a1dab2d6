import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Box, Subject } from "../subject.ts";
import { BENCH_CGROUP, removeBenchCgroups } from "./cgroup.ts";
import { detached, filesThrough, run, which } from "./process.ts";

/**
 * The runtime alone: a bundle over a fresh overlay, no seccomp, no user namespace, no limits: less than Warren does.
 * `create` is overlay + `run` of a shell that echoes and then waits.
 */
export function bareOci(program: "crun" | "runc"): Subject {
  let scratch = "";
  let lower = "";
  let counter = 0;
  const root = (): string => join(scratch, "run");
  return {
    name: `${program} (bare)`,
    isSlow: false,
    unavailable: async () => (which(program) ? undefined : `${program} is not installed`),
    async prepare(rootfs, directory) {
      scratch = join(directory, program);
      lower = rootfs;
      await mkdir(root(), { recursive: true });
    },
    async create(): Promise<Box> {
      const id = `warrenbench-${process.pid}-${counter++}`;
      const bundle = join(scratch, id);
      for (const dir of ["upper", "work", "rootfs"]) await mkdir(join(bundle, dir), { recursive: true });
      await run([
        "mount",
        "-t",
        "overlay",
        "overlay",
        "-o",
        `lowerdir=${lower},upperdir=${bundle}/upper,workdir=${bundle}/work`,
        `${bundle}/rootfs`,
      ]);
      await writeFile(join(bundle, "config.json"), JSON.stringify(config(join(bundle, "rootfs"), id)));
      await detached([program, "--root", root(), "run", "--detach", "--bundle", bundle, id]);
      const inside = [program, "--root", root(), "exec", id];
      return {
        exec: async (argv) => void (await run([...inside, ...argv])),
        ...filesThrough(inside),
        async destroy() {
          await run([program, "--root", root(), "delete", "-f", id]);
          await run(["umount", `${bundle}/rootfs`]);
        },
      };
    },
    close: removeBenchCgroups,
  };
}

const config = (rootfs: string, id: string): unknown => ({
  ociVersion: "1.0.2",
  process: {
    user: { uid: 0, gid: 0 },
    args: ["/bin/sh", "-c", "echo ready; exec sleep 100000"],
    env: ["PATH=/bin"],
    cwd: "/",
  },
  root: { path: rootfs },
  hostname: "bench",
  mounts: [
    { destination: "/proc", type: "proc", source: "proc" },
    { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755", "size=65536k"] },
  ],
  linux: {
    cgroupsPath: `/${BENCH_CGROUP}/${id}`,
    namespaces: ["pid", "network", "ipc", "uts", "mount"].map((type) => ({ type })),
  },
});
