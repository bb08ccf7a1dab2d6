import { randomBytes } from "node:crypto";
import { lstat, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** A directory of the host that nothing inside may read or change, with a secret in it. */
export interface Canary {
  readonly dir: string;
  /** A file in `dir` that holds `token`. */
  readonly file: string;
  readonly token: string;
  /** Everything about the directory and what is in it; equal as long as nobody touched them. */
  state(): Promise<unknown>;
}

export async function plantCanary(dir: string): Promise<Canary> {
  const token = `canary-${randomBytes(16).toString("hex")}`;
  const file = join(dir, "secret");
  await mkdir(join(dir, "sub"), { recursive: true });
  await writeFile(file, token, { mode: 0o644 });
  await writeFile(join(dir, "sub", "more"), token);
  const describe = async (path: string) => {
    const { mode, uid, gid, size, ino, nlink, mtimeMs, ctimeMs } = await lstat(path);
    return { path, mode, uid, gid, size, ino, nlink, mtimeMs, ctimeMs };
  };
  return {
    dir,
    file,
    token,
    async state() {
      const names = (await readdir(dir, { recursive: true })).sort();
      return {
        entries: await Promise.all(["", ...names].map((name) => describe(join(dir, name)))),
        content: await readFile(file, "utf8"),
      };
    },
  };
}
