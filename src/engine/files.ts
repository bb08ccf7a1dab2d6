import { posix } from "node:path";
import type { FilesApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { WatchEvent } from "../contracts/files.ts";
import { GuestPath } from "../contracts/sandbox.ts";
import type { GuestClient } from "../guest/types.ts";
import { parseInput } from "../lib/parse.ts";
import { linkSignals } from "../lib/signals.ts";
import { type Core, inRunning } from "./core.ts";

/** Bits that chmod takes: permissions, set-user-id, set-group-id and sticky. */
const MAX_MODE = 0o7777;

/** The files of running sandboxes. Paths are looked up inside, by the guest: the host never touches them. */
export function createFiles(core: Core): FilesApi {
  const inside = <T>(id: string, work: (guest: GuestClient) => Promise<T>) => inRunning(core, id, work);

  return {
    async read(id, path, options = {}) {
      const checked = checkPath(path);
      checkCount(options.offset, "offset");
      checkCount(options.length, "length");
      return await inside(id, (guest) => guest.readFile(checked, options));
    },
    async write(id, path, body, options = {}) {
      const checked = checkPath(path);
      checkMode(options.mode);
      return await inside(id, async (guest) => {
        core.onStep("write.begun");
        const written = await guest.writeFile(checked, body, {
          ...options,
          parents: options.parents ?? true,
        });
        core.onStep("write.done");
        return written;
      });
    },
    async remove(id, path) {
      const checked = checkPath(path);
      if (posix.normalize(checked).replace(/\/$/, "") === "") {
        throw new WarrenError("invalid_path", "the root directory can't be removed", {
          hint: "to remove the whole sandbox: warren rm",
        });
      }
      await inside(id, (guest) => guest.remove(checked, { recursive: true, missingOk: true }));
    },
    async list(id, path) {
      const checked = checkPath(path);
      return await inside(id, (guest) => guest.list(checked));
    },
    async stat(id, path) {
      const checked = checkPath(path);
      return await inside(id, (guest) => guest.stat(checked));
    },
    async mkdir(id, path) {
      const checked = checkPath(path);
      await inside(id, (guest) => guest.mkdir(checked, { parents: true }));
    },
    async rename(id, from, to) {
      const [source, target] = [checkPath(from), checkPath(to)];
      await inside(id, (guest) => guest.rename(source, target));
    },
    async chmod(id, path, mode) {
      const checked = checkPath(path);
      checkMode(mode);
      await inside(id, (guest) => guest.chmod(checked, mode));
    },
    watch: (id, path, options) => watch(core, id, path, options),
  };
}

async function* watch(
  core: Core,
  id: string,
  path: string,
  options: { recursive?: boolean; signal: AbortSignal },
): AsyncIterable<WatchEvent> {
  const checked = checkPath(path);
  using ended = linkSignals(options.signal, core.closing);
  const { signal } = ended;
  yield* await inRunning(core, id, async (guest) => guest.watch(checked, { ...options, signal }));
}

/** Paths as den words their refusal. */
function checkPath(path: string): string {
  if (typeof path === "string" && path.includes("\0")) {
    throw new WarrenError("invalid_path", "path contains null byte");
  }
  return parseInput(GuestPath, path, "invalid_path");
}

function checkMode(mode: number | undefined): void {
  if (mode === undefined || (Number.isInteger(mode) && mode >= 0 && mode <= MAX_MODE)) return;
  throw new WarrenError("invalid_request", "a mode is a number from 0 to 07777 (octal)");
}

function checkCount(count: number | undefined, name: string): void {
  if (count === undefined || (Number.isSafeInteger(count) && count >= 0)) return;
  throw new WarrenError("invalid_request", `${name} must be a whole number of bytes, not negative`);
}
