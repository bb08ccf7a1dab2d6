import { readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { isGone, makeDir, readText } from "../../lib/files.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** What Podman and its helpers read. Nothing else of our environment is theirs to know. */
const passed =
  /^(PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|XDG_\w+|DBUS_SESSION_BUS_ADDRESS|CONTAINERS_\w+|STORAGE_\w+|REGISTRY_AUTH_FILE|SSL_CERT_(FILE|DIR)|(https?|ftp|all|no)_proxy)$/i;

const RUNTIME_DIR_PREFIX = "xdg-";

/**
 * Of a Podman that we start. An ordinary user's needs a directory that does not outlive a boot; where there is none it gets
 * one below `dir`, and a new one after each boot, since what it finds there is about processes.
 */
export async function serviceEnvironment(
  env: Environment,
  uid: number,
  dir: string,
): Promise<Record<string, string>> {
  const chosen = Object.fromEntries(
    Object.entries(env).filter(
      (pair): pair is [string, string] => pair[1] !== undefined && passed.test(pair[0]),
    ),
  );
  if (uid === 0 || (await isOwn(env.XDG_RUNTIME_DIR, uid))) return chosen;
  const boot = ((await readText("/proc/sys/kernel/random/boot_id")) ?? "").trim().slice(0, 8);
  const path = join(dir, `${RUNTIME_DIR_PREFIX}${boot}`);
  await makeDir(path, 0o700).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") throw error;
  });
  for (const name of await readdir(dir)) {
    if (!name.startsWith(RUNTIME_DIR_PREFIX) || join(dir, name) === path) continue;
    await rm(join(dir, name), { recursive: true, force: true }).catch(() => {}); // costs a little of the disk
  }
  return { ...chosen, XDG_RUNTIME_DIR: path };
}

async function isOwn(path: string | undefined, uid: number): Promise<boolean> {
  if (!path) return false;
  try {
    const found = await stat(path);
    return found.isDirectory() && found.uid === uid;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}
