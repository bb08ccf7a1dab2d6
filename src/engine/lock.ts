import { join } from "node:path";
import Database from "libsql";
import { WarrenError } from "../contracts/errors.ts";

/**
 * Makes this process the only engine of the state directory until it is disposed or dies: the kernel drops the lock
 * with the process, so nothing stale is ever left. Node has no flock, but SQLite locks its files with fcntl.
 * @throws WarrenError `engine_locked`, at once, when another engine holds it.
 */
export function lockStateDir(stateDir: string): Disposable {
  let database: Database.Database;
  try {
    database = new Database(join(stateDir, "engine.lock"), { timeout: 0 });
  } catch (cause) {
    throw new WarrenError("internal", `the lock in ${stateDir} can't be opened`, {
      hint: `check that ${stateDir} exists, is yours and is not full`,
      cause,
    });
  }
  try {
    database.exec("BEGIN EXCLUSIVE");
  } catch (cause) {
    database.close();
    if ((cause as { code?: unknown }).code === "SQLITE_BUSY") {
      throw new WarrenError("engine_locked", `another engine uses ${stateDir}`, {
        hint: "talk to that one, or choose another state directory",
        cause,
      });
    }
    throw new WarrenError("internal", `the lock in ${stateDir} can't be taken`, { cause });
  }
  return { [Symbol.dispose]: () => void database.close() };
}
