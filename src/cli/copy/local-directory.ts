import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, lstat, mkdir, open, rename, symlink, unlink } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";

/** Bits that a downloaded file may have. set-user-ID from a sandbox would be an attack on this machine. */
const MODE_BITS = 0o777;

/**
 * A local directory that is written to by names which a sandbox chose. It is held open, and all that happens below it
 * goes through that descriptor: whatever is renamed or linked meanwhile, nothing lands elsewhere. Symbolic links are
 * never followed.
 */
export interface LocalDirectory extends AsyncDisposable {
  /** For messages. */
  readonly path: string;
  /** Opens the directory of that name, made if missing (only for us until `setMode`). */
  directory(name: string): Promise<LocalDirectory>;
  /** Puts a file there in one step; one that was there is replaced. */
  writeFile(name: string, body: AsyncIterable<Uint8Array>, mode: number): Promise<void>;
  /** Puts a symbolic link there. One that was there is replaced, anything else is an error. */
  link(name: string, target: string): Promise<void>;
  setMode(mode: number): Promise<void>;
}

/** Opens a directory that the user named; links in its own path are the user's. */
export function openLocalDirectory(path: string): Promise<LocalDirectory> {
  return hold(path, path, 0);
}

/** Throws `invalid_path` for a name that is not a plain entry of a directory. */
export function checkName(name: string): void {
  if (name === "" || name === "." || name === ".." || /[/\0]/.test(name)) {
    throw new WarrenError(
      "invalid_path",
      `the sandbox returned ${JSON.stringify(name)} as the name of a file`,
    );
  }
}

async function hold(path: string, shown: string, flags: number): Promise<LocalDirectory> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | flags);
  // openat(2) by way of /proc. Elsewhere than on Linux a path must do: what we make below it is never replaced by a link.
  const base = process.platform === "linux" ? `/proc/self/fd/${handle.fd}` : path;
  const at = (name: string) => {
    checkName(name);
    return join(base, name);
  };
  return {
    path: shown,
    async directory(name) {
      const child = at(name);
      await mkdir(child, 0o700).catch(ignore("EEXIST"));
      try {
        return await hold(child, join(shown, name), constants.O_NOFOLLOW);
      } catch (cause) {
        throw named(cause, join(shown, name), "is in the way: it is not a directory");
      }
    },
    async writeFile(name, body, mode) {
      const target = at(name);
      const draft = at(`.warren-${randomBytes(6).toString("hex")}`);
      try {
        await using file = await openNew(draft);
        for await (const chunk of body) await writeChunk(file, chunk);
        await file.chmod(mode & MODE_BITS);
        await rename(draft, target);
      } catch (error) {
        await unlink(draft).catch(() => {});
        throw named(error, join(shown, name), "is in the way: it is a directory");
      }
    },
    async link(name, target) {
      const path = at(name);
      const existing = await lstat(path).catch(ignore("ENOENT"));
      if (existing?.isSymbolicLink()) await unlink(path);
      try {
        await symlink(target, path);
      } catch (cause) {
        throw named(cause, join(shown, name), "is in the way of a symbolic link");
      }
    },
    async setMode(mode) {
      await handle.chmod(mode & MODE_BITS);
    },
    [Symbol.asyncDispose]: () => handle.close(),
  };
}

function openNew(path: string): Promise<FileHandle & AsyncDisposable> {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  return open(path, flags, 0o600) as Promise<FileHandle & AsyncDisposable>;
}

async function writeChunk(file: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let rest = chunk; rest.length > 0; ) {
    const { bytesWritten } = await file.write(rest, 0, rest.length);
    rest = rest.subarray(bytesWritten);
  }
}

function ignore(code: string): (error: NodeJS.ErrnoException) => undefined {
  return (error) => {
    if (error.code !== code) throw error;
  };
}

/** The error under the name that the user knows, instead of a path below /proc/self/fd. */
function named(error: unknown, path: string, inTheWay: string): unknown {
  const code = (error as NodeJS.ErrnoException).code;
  if (
    code === "ELOOP" ||
    code === "ENOTDIR" ||
    code === "EISDIR" ||
    code === "EEXIST" ||
    code === "ENOTEMPTY"
  ) {
    return new WarrenError("file_exists", `${path} ${inTheWay}`, { cause: error });
  }
  if (error instanceof WarrenError || code === undefined) return error;
  return new WarrenError(
    code === "ENOSPC" ? "no_space" : "permission_denied",
    `${path} can't be written: ${code}`,
    {
      cause: error,
    },
  );
}
