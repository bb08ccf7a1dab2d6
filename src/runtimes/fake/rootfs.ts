import { chmod, lstat, mkdir, readlink, realpath, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type { PreparedImage, RuntimeSpec } from "../../contracts/runtime.ts";
import { run } from "../../lib/run.ts";
import { capturedResolverFile } from "../common/network-capture.ts";

/** Links of a merged-usr system, or directories of an older one. */
const topLevel = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

const passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
sandbox:x:1000:1000:sandbox:/home/sandbox:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`;
const group = "root:x:0:\ndaemon:x:1:\nsandbox:x:1000:\nnogroup:x:65534:\n";

/** What ids of images begin with whose files are in a directory; those of the second have the host's programs mounted, too. */
const DIRECTORY = "dir:";
const HOST_AND_DIRECTORY = "host+dir:";

/** Image references that this driver takes. */
export async function ensureImage(reference: string): Promise<PreparedImage> {
  if (reference === "host") return { id: "host", reference, env: {} };
  if (!reference.startsWith("/")) {
    throw new WarrenError("unsupported", "the fake runtime takes no image from a registry", {
      hint: 'give "host" or the absolute path of a root filesystem directory',
    });
  }
  let path: string;
  let isDirectory: boolean;
  try {
    path = await realpath(reference);
    isDirectory = (await stat(path)).isDirectory();
  } catch (cause) {
    throw new WarrenError("image_not_found", `there is no image ${JSON.stringify(reference)}`, {
      hint: "give the absolute path of a root filesystem directory on the host",
      cause,
    });
  }
  if (!isDirectory) {
    throw new WarrenError("image_invalid", `${JSON.stringify(reference)} is not a directory`, {
      hint: "the fake runtime unpacks no archives",
    });
  }
  return { id: `${DIRECTORY}${path}`, reference, env: {} };
}

/** The image of a snapshot whose files lie in `root`. Above the host's programs where those were below it. */
export function snapshotImage(root: string, isOnHost: boolean): string {
  return isOnHost ? `${HOST_AND_DIRECTORY}${root}` : `${DIRECTORY}${root}`;
}

/** Whether a sandbox of this image has the host's programs mounted. */
export function onHost(imageId: string): boolean {
  return imageId === "host" || imageId.startsWith(HOST_AND_DIRECTORY);
}

/** Fills a new root. Nothing is written through a path that an image could have prepared. */
export async function makeRoot(root: string, spec: RuntimeSpec, signal?: AbortSignal): Promise<void> {
  for (const prefix of [DIRECTORY, HOST_AND_DIRECTORY]) {
    if (spec.image.id.startsWith(prefix)) {
      await copyTree(spec.image.id.slice(prefix.length), root, signal);
      return;
    }
  }
  const directories: [string, number][] = [
    ["", 0o755],
    ["usr", 0o755],
    ["etc", 0o755],
    ["home", 0o755],
    ["home/sandbox", 0o777],
    ["opt", 0o755],
    ["root", 0o700],
    ["run", 0o755],
    ["srv", 0o755],
    ["tmp", 0o1777],
    ["var", 0o755],
    ["var/tmp", 0o1777],
  ];
  for (const [path, mode] of directories) {
    await mkdir(join(root, path));
    await chmod(join(root, path), mode); // mkdir's mode would be subject to the umask
  }
  for (const name of topLevel) {
    const target = await linkTarget(`/${name}`);
    if (target !== undefined) await symlink(target, join(root, name));
  }
  await writeFile(join(root, "etc/passwd"), passwd);
  await writeFile(join(root, "etc/group"), group);
  await writeFile(join(root, "etc/hosts"), `127.0.0.1 localhost ${spec.hostname}\n::1 localhost\n`);
  await writeFile(join(root, "etc/hostname"), `${spec.hostname}\n`);
  if (spec.network === "filtered") await writeFile(join(root, "etc/resolv.conf"), capturedResolverFile);
}

/** Copies a directory, which becomes `to`, with owners, modes, links and times. */
export async function copyTree(from: string, to: string, signal?: AbortSignal): Promise<void> {
  const copy = await run("cp", ["-a", "--reflink=auto", "--", from, to], {
    timeoutMs: 10 * 60_000,
    ...(signal === undefined ? {} : { signal }),
  });
  if (copy.code === 0) return;
  throw new WarrenError("image_invalid", "the files could not be copied", {
    cause: copy.stderr.toString("utf8"),
  });
}

/** bwrap's arguments that put the host's programs, read-only, into the root of a `host` sandbox. */
export async function hostMounts(): Promise<string[]> {
  const mounts = ["--ro-bind", "/usr", "/usr"];
  for (const name of topLevel) {
    // Where it is a link, the new root has the link.
    if ((await linkTarget(`/${name}`)) === undefined) mounts.push("--ro-bind-try", `/${name}`, `/${name}`);
  }
  // Programs of Debian are often links through here; the other is how the loader finds libraries.
  for (const path of ["/etc/alternatives", "/etc/ld.so.cache"]) mounts.push("--ro-bind-try", path, path);
  return mounts;
}

async function linkTarget(path: string): Promise<string | undefined> {
  try {
    return (await lstat(path)).isSymbolicLink() ? await readlink(path) : undefined;
  } catch {
    return undefined;
  }
}
