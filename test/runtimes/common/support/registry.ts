import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, copyFileSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { quietPort } from "../../../../src/testing/ports.ts";
import { eventually } from "../../../../src/testing/wait.ts";

/** Debian's docker-registry, on loopback and without TLS. */
export interface Registry {
  port: number;
  log(): string;
  /** Puts an image of a layout there, `layout:tag`, under a name below the registry such as `team/tiny:1`. */
  push(layoutImage: string, name: string): void;
  stop(): Promise<void>;
}

export interface RegistryOptions {
  /** Of a process in whose network namespace it listens. Default: ours. */
  netnsOf?: number;
  /** A line of an htpasswd file, with bcrypt, and the same as `user:password` for pushing. */
  auth?: { htpasswd: string; credentials: string };
}

export async function startRegistry(dir: string, options: RegistryOptions = {}): Promise<Registry> {
  const { netnsOf, auth } = options;
  const inNet = (...argv: [string, ...string[]]): [string, ...string[]] =>
    netnsOf === undefined ? argv : ["nsenter", `--net=/proc/${netnsOf}/ns/net`, ...argv];
  mkdirSync(dir);
  const port = await quietPort();
  const htpasswd = join(dir, "htpasswd");
  if (auth) writeFileSync(htpasswd, `${auth.htpasswd}\n`);
  const config = {
    version: 0.1,
    log: { accesslog: { disabled: false } },
    storage: { filesystem: { rootdirectory: dir } },
    http: { addr: `127.0.0.1:${port}` },
    ...(auth ? { auth: { htpasswd: { realm: "test", path: htpasswd } } } : {}),
  };
  writeFileSync(join(dir, "config.yml"), JSON.stringify(config));
  const [program, ...args] = inNet("docker-registry", "serve", join(dir, "config.yml"));
  const child: ChildProcess = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  for (const stream of [child.stdout, child.stderr])
    stream?.on("data", (chunk: Buffer) => (log += chunk.toString()));
  const ended = once(child, "exit");
  await eventually("the registry", () => log.includes("listening on"));
  return {
    port,
    log: () => log,
    push(layoutImage, name) {
      const [skopeo, ...flags] = inNet("skopeo", "copy", "--insecure-policy", "--quiet");
      execFileSync(
        skopeo,
        [
          ...flags,
          "--dest-tls-verify=false",
          ...(auth ? ["--dest-creds", auth.credentials] : []),
          `oci:${layoutImage}`,
          `docker://127.0.0.1:${port}/${name}`,
        ],
        { stdio: "pipe" },
      );
    },
    async stop() {
      if (child.exitCode === null && child.signalCode === null) child.kill();
      await ended;
    },
  };
}

/** An OCI layout with the tag `tag`: busybox in one layer, a file and a whiteout in the next. */
export function buildImage(layout: string): string {
  const bundle = `${layout}-bundle`;
  const image = `${layout}:tag`;
  umoci("init", "--layout", layout);
  umoci("new", "--image", image);
  umoci("unpack", "--image", image, bundle);
  mkdirSync(join(bundle, "rootfs/bin"));
  copyFileSync("/bin/busybox", join(bundle, "rootfs/bin/busybox"));
  chmodSync(join(bundle, "rootfs/bin/busybox"), 0o755);
  symlinkSync("busybox", join(bundle, "rootfs/bin/sh"));
  writeFileSync(join(bundle, "rootfs/gone"), "x");
  umoci("repack", "--refresh-bundle", "--image", image, bundle);
  rmSync(join(bundle, "rootfs/gone"));
  writeFileSync(join(bundle, "rootfs/from-image"), "in a layer\n");
  execFileSync("chown", ["9:9", join(bundle, "rootfs/from-image")]);
  umoci("repack", "--image", image, bundle);
  const settings = {
    env: ["PATH=/bin", "GREETING=hello there"],
    workingdir: ["/project"],
    user: ["7:8"],
    entrypoint: ["/bin/entry"],
    cmd: ["serve"],
  };
  const flags = Object.entries(settings).flatMap(([key, values]) =>
    values.flatMap((value) => [`--config.${key}`, value]),
  );
  umoci("config", "--image", image, ...flags);
  return layout;
}

function umoci(...args: string[]): void {
  execFileSync("umoci", args, { stdio: "pipe" });
}
