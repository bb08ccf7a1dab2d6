import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { SharedDockerd } from "./dockerd.ts";
import { run, which } from "./process.ts";

/** What a server of Warren makes its sandboxes with. */
export interface Backing {
  /** As in the names of subjects. */
  readonly name: string;
  /** Takes about half a second for each box. */
  readonly isSlow: boolean;
  unavailable(): string | undefined;
  /** Once. `rootfs`: as of a subject. */
  open(rootfs: string, scratch: string): Promise<OpenBacking>;
}

export interface OpenBacking {
  /** Of `warren serve`. */
  args: string[];
  env?: Record<string, string>;
  /** What sandboxes are made of. */
  image: string;
  close?(): Promise<void>;
}

const IMAGE = "localhost/warren-bench-base:1";

export function ociBacking(program: "crun" | "runc"): Backing {
  return {
    name: program,
    isSlow: false,
    unavailable: () => (which(program) ? undefined : `${program} is not installed`),
    open: async (rootfs) => ({ args: ["--runtime", "oci", "--oci-program", program], image: rootfs }),
  };
}

/** Warren on a Podman with storage of its own. */
export function podmanBacking(): Backing {
  return {
    name: "podman",
    isSlow: true,
    unavailable: () => (which("podman") ? undefined : "podman is not installed"),
    async open(rootfs, scratch) {
      const dir = join(scratch, "warren-podman-storage");
      await mkdir(dir);
      const roots = { graphroot: join(dir, "graph"), runroot: join(dir, "run") };
      const storage = Object.entries(roots).map(([name, path]) => `${name} = "${path}"`);
      await writeFile(
        join(dir, "storage.conf"),
        ["[storage]", 'driver = "overlay"', ...storage, ""].join("\n"),
      );
      await writeFile(join(dir, "containers.conf"), `[engine]\ntmp_dir = "${dir}/libpod"\n`);
      const env = {
        CONTAINERS_STORAGE_CONF: join(dir, "storage.conf"),
        CONTAINERS_CONF: join(dir, "containers.conf"),
      };
      const podman = (...args: string[]) => run(["podman", ...args], { env: { ...process.env, ...env } });
      await podman("import", await tarOf(rootfs, dir), IMAGE);
      return {
        args: ["--runtime", "podman"],
        env,
        image: IMAGE,
        // Its storage goes with the scratch directory.
        close: async () => void (await podman("rmi", "--all", "--force")),
      };
    },
  };
}

export function dockerBacking(dockerd: SharedDockerd): Backing {
  return {
    name: "docker",
    isSlow: true,
    unavailable: () => dockerd.unavailable(),
    async open(rootfs, scratch) {
      const daemon = await dockerd.get(scratch);
      try {
        await daemon.cli("import", await tarOf(rootfs, daemon.home), IMAGE);
      } catch (error) {
        await dockerd.release();
        throw error;
      }
      return {
        args: ["--runtime", "docker"],
        env: { DOCKER_HOST: daemon.url },
        image: IMAGE,
        close: () => dockerd.release(),
      };
    },
  };
}

async function tarOf(rootfs: string, dir: string): Promise<string> {
  const tar = join(dir, "warren-bench.tar");
  await run(["tar", "-C", rootfs, "-cf", tar, "."]);
  return tar;
}
