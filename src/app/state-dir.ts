import { mkdirSync, type Stats, statSync } from "node:fs";
import { join } from "node:path";
import { WarrenError } from "../contracts/errors.ts";

/** Most bytes of a Unix socket's path: sun_path of unix(7), its final NUL excluded. */
const MAX_SOCKET_PATH = 107;

/** Where the engine of a state directory listens. Throws `invalid_request` when the kernel could not take the path. */
export function engineSocket(stateDir: string): string {
  const path = join(stateDir, "engine.sock");
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
    throw new WarrenError("invalid_request", `the state directory's path is too long: ${stateDir}`, {
      hint: `its engine.sock may take ${MAX_SOCKET_PATH} bytes; choose a shorter one with --state-dir`,
    });
  }
  return path;
}

export const engineLog = (stateDir: string): string => join(stateDir, "engine.log");

/** Who holds the state directory, for people and `warren doctor`; the lock is the engine's own. */
export const enginePidFile = (stateDir: string): string => join(stateDir, "engine.pid");

/**
 * Makes the state directory if it is missing, for its owner alone, and refuses one that others could have prepared
 * or could change: whoever can write there decides what a sandbox runs.
 */
export function prepareStateDir(stateDir: string): void {
  try {
    mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new WarrenError("permission_denied", `the state directory ${stateDir} can't be made`, {
      hint: "choose another with --state-dir or WARREN_STATE_DIR",
      cause,
    });
  }
  checkStateDir(stateDir);
}

/** Throws unless the directory is ours and only ours to write. False when it does not exist. */
export function checkStateDir(stateDir: string): boolean {
  let found: Stats | undefined;
  try {
    found = statSync(stateDir, { throwIfNoEntry: false });
  } catch (cause) {
    throw new WarrenError("permission_denied", `the state directory ${stateDir} can't be reached`, {
      hint: "choose another with --state-dir or WARREN_STATE_DIR",
      cause,
    });
  }
  if (!found) {
    return false;
  }
  if (!found.isDirectory()) {
    throw new WarrenError("not_a_directory", `the state directory ${stateDir} is not a directory`);
  }
  const uid = process.getuid?.();
  if (uid !== undefined && found.uid !== uid) {
    throw new WarrenError(
      "forbidden",
      `the state directory ${stateDir} belongs to user ${found.uid}, not to us`,
      {
        hint: "choose your own with --state-dir or WARREN_STATE_DIR",
      },
    );
  }
  if ((found.mode & 0o022) !== 0) {
    throw new WarrenError("forbidden", `others may write to the state directory ${stateDir}`, {
      hint: `chmod go-w '${stateDir}'`,
    });
  }
  return true;
}
