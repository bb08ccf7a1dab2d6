import { createReadStream } from "node:fs";
import { lstat, readdir, readlink, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type { FileInfo } from "../../contracts/files.ts";
import type { Remote } from "./download.ts";
import { joinGuest, meansDirectory } from "./location.ts";
import { inParallel } from "./parallel.ts";

/** Bits that are kept. set-user-ID means little in a sandbox, and never what the host's file meant by it. */
const MODE_BITS = 0o777;

/** Copies a local file or tree into a sandbox, the way `cp -r` would. */
export async function upload(remote: Remote, source: string, destination: string): Promise<void> {
  const local = await stat(source);
  const existing = await statInside(remote, destination);
  if (!local.isDirectory()) {
    const into = existing?.is_dir || meansDirectory(destination);
    await uploadFile(
      remote,
      source,
      into ? joinGuest(destination, basename(source)) : destination,
      local.mode,
    );
    return;
  }
  if (existing && !existing.is_dir) {
    throw new WarrenError("file_exists", `${destination} is a file, and ${source} is a directory`);
  }
  // `cp -r dir existing` makes existing/dir, `cp -r dir/. existing` fills existing, `cp -r dir new` makes new.
  const contentsOnly = !existing || source === "." || source.endsWith("/.");
  const root = contentsOnly ? destination : joinGuest(destination, basename(resolve(source)));
  await uploadDirectory(remote, source, root, local.mode);
}

/** Stores what comes on stdin as a file. */
export async function uploadStdin({ api, id }: Remote, destination: string): Promise<void> {
  if (meansDirectory(destination)) {
    throw new WarrenError("not_a_file", "stdin has no name of its own", {
      hint: "give the whole path of the file",
    });
  }
  await api.files.write(id, destination, process.stdin);
}

async function uploadDirectory(remote: Remote, source: string, path: string, mode: number): Promise<void> {
  const { api, id } = remote;
  await api.files.mkdir(id, path);
  const entries = await readdir(source, { withFileTypes: true });
  await inParallel(
    entries.filter((entry) => !entry.isDirectory()),
    async (entry) => {
      const from = join(source, entry.name);
      const to = joinGuest(path, entry.name);
      if (entry.isFile()) {
        await uploadFile(remote, from, to, (await lstat(from)).mode);
      } else if (entry.isSymbolicLink()) {
        await makeLink(remote, await readlink(from), to);
      } else {
        remote.warn(`skipped ${from}: it is neither a file, a directory nor a link`);
      }
    },
  );
  for (const entry of entries.filter((entry) => entry.isDirectory())) {
    const from = join(source, entry.name);
    await uploadDirectory(remote, from, joinGuest(path, entry.name), (await lstat(from)).mode);
  }
  // Last: a directory that may not be written can't be filled.
  await api.files.chmod(id, path, mode & MODE_BITS);
}

async function uploadFile({ api, id }: Remote, source: string, path: string, mode: number): Promise<void> {
  const body = createReadStream(source, { highWaterMark: 256 * 1024 });
  try {
    await api.files.write(id, path, body, { mode: mode & MODE_BITS });
  } finally {
    body.destroy();
  }
}

/** The API has no call that makes a link, so the sandbox's own `ln` does. */
async function makeLink({ api, id, warn }: Remote, target: string, path: string): Promise<void> {
  const { exit_code, stderr } = await api.exec(id, { cmd: ["ln", "-sfn", "--", target, path], timeout: 30 });
  if (exit_code !== 0) {
    warn(`skipped the link ${path}: ${stderr.trim() || `ln ended with ${exit_code}`}`);
  }
}

/** What is there, a link at the end followed; undefined when nothing is. */
async function statInside({ api, id }: Remote, path: string): Promise<FileInfo | undefined> {
  try {
    const info = await api.files.stat(id, path);
    if (info.type !== "symlink") return info;
    return await api.files.stat(id, joinGuest(path, "."));
  } catch (error) {
    if (!(error instanceof WarrenError)) throw error;
    // A link to a file is not a directory; a link to nothing, or no entry at all, is nothing.
    if (error.code === "file_not_found" || error.code === "not_a_directory") return undefined;
    throw error;
  }
}
