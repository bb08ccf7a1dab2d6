import { closeSync, fstatSync, openSync, readSync, renameSync, statSync } from "node:fs";
import { connect } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { WarrenError } from "../contracts/errors.ts";
import { engineEnvironment } from "./config.ts";
import { checkStateDir, engineLog, engineSocket, prepareStateDir } from "./state-dir.ts";

/** Exit code of an on-demand engine that found another one holding its state directory (EX_TEMPFAIL of sysexits.h). */
export const EXIT_ENGINE_LOCKED = 75;

/** How long an engine may take until it answers. A cold start takes well under a second; a busy machine, more. */
const START_TIMEOUT_MS = 15_000;
const POLL_MS = 20;
/** How long an engine that closes may go on to take connections. It stops listening first of all. */
const LEAVE_TIMEOUT_MS = 5_000;
/** A log beyond this is set aside when the next engine starts, so that two of them bound the disk that logs take. */
const MAX_LOG_BYTES = 16 * 1024 * 1024;

export interface EngineLocation {
  stateDir: string;
  /** The CLI's main file: Node runs it again as the engine. */
  mainFile: string;
}

/**
 * The socket of the state directory's engine, which is started when none answers. Callers at the same moment may each
 * start a process, but the engine's own lock lets only one live, and all of them find that one.
 * Throws `engine_unavailable` with the end of the engine's log when none comes up.
 */
export async function ensureEngine({ stateDir, mainFile }: EngineLocation): Promise<string> {
  const socket = engineSocket(stateDir);
  if (checkStateDir(stateDir) && (await engineAnswers(socket))) {
    return socket;
  }
  prepareStateDir(stateDir);
  const deadline = performance.now() + START_TIMEOUT_MS;
  const log = engineLog(stateDir);
  while (true) {
    const attempt = await startEngine(stateDir, mainFile);
    const exit = await untilAnswers(socket, attempt.exited, deadline);
    if (exit === "answers") {
      return socket;
    }
    if (exit === "timeout") {
      attempt.kill();
      throw unavailable(
        `the engine did not answer within ${START_TIMEOUT_MS / 1000} s`,
        log,
        attempt.logOffset,
      );
    }
    if (exit !== EXIT_ENGINE_LOCKED) {
      throw unavailable("the engine could not be started", log, attempt.logOffset);
    }
    // Another one holds the directory: it is starting (and will answer) or ending (and will let go).
    const soon = Math.min(deadline, performance.now() + 1000);
    if ((await untilAnswers(socket, undefined, soon)) === "answers") {
      return socket;
    }
    if (performance.now() >= deadline) {
      throw new WarrenError("engine_unavailable", `an engine holds ${stateDir} but does not answer`, {
        hint: `see ${log}; the process holding it is in ${stateDir}/engine.pid`,
      });
    }
  }
}

/** The socket of the engine that most likely runs; undefined where none has been, or that can't be told. */
export function likelyEngine(stateDir: string): string | undefined {
  return checkStateDir(stateDir) ? engineSocket(stateDir) : undefined;
}

/** The socket of the engine that comes after one which is just closing, and is started when nobody else does. */
export async function nextEngine(location: EngineLocation): Promise<string> {
  const socket = engineSocket(location.stateDir);
  const deadline = Date.now() + LEAVE_TIMEOUT_MS;
  while (Date.now() < deadline && (await engineAnswers(socket))) await delay(POLL_MS);
  return await ensureEngine(location);
}

/** Waits for an engine that something else is starting. Throws `engine_unavailable`. */
export async function waitForEngine(stateDir: string, timeoutMs = START_TIMEOUT_MS): Promise<string> {
  const socket = engineSocket(stateDir);
  if ((await untilAnswers(socket, undefined, performance.now() + timeoutMs)) !== "answers") {
    throw new WarrenError("engine_unavailable", `an engine holds ${stateDir} but does not answer`, {
      hint: `see ${engineLog(stateDir)}`,
    });
  }
  return socket;
}

/** True when something accepts connections there. */
export function engineAnswers(socket: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const connection = connect(socket);
    connection.once("connect", () => {
      connection.destroy();
      resolve(true);
    });
    connection.once("error", (cause: NodeJS.ErrnoException) => {
      // EAGAIN: it is there, with a full backlog.
      if (cause.code === "EAGAIN") {
        resolve(true);
      } else if (cause.code === "EACCES" || cause.code === "EPERM") {
        reject(
          new WarrenError("permission_denied", `the engine's socket ${socket} is another user's`, { cause }),
        );
      } else {
        resolve(false);
      }
    });
  });
}

async function untilAnswers(
  socket: string,
  exited: Promise<number> | undefined,
  deadline: number,
): Promise<"answers" | "timeout" | number> {
  let code: number | undefined;
  void exited?.then((value) => {
    code = value;
  });
  while (performance.now() < deadline) {
    if (await engineAnswers(socket)) {
      return "answers";
    }
    if (code !== undefined) {
      return code;
    }
    await delay(POLL_MS);
  }
  return "timeout";
}

interface Attempt {
  exited: Promise<number>;
  /** Where this attempt's lines begin in the log. */
  logOffset: number;
  kill(): void;
}

/** Runs the CLI as an engine in a session of its own, which outlives us and our terminal. */
async function startEngine(stateDir: string, mainFile: string): Promise<Attempt> {
  // Loaded only here: most commands find an engine, and have no time to lose.
  const { spawn } = await import("node:child_process");
  const log = engineLog(stateDir);
  if ((statSync(log, { throwIfNoEntry: false })?.size ?? 0) > MAX_LOG_BYTES) {
    renameSync(log, `${log}.1`);
  }
  const logFd = openSync(log, "a", 0o600);
  try {
    const logOffset = fstatSync(logFd).size;
    const child = spawn(process.execPath, [mainFile, "serve", "--state-dir", stateDir, "--on-demand"], {
      detached: true,
      cwd: "/",
      env: engineEnvironment(),
      stdio: ["ignore", logFd, logFd],
    });
    child.unref();
    const exited = new Promise<number>((resolve) => {
      child.once("exit", (code) => resolve(code ?? 1));
      child.once("error", () => resolve(1));
    });
    return { exited, logOffset, kill: () => child.kill("SIGKILL") };
  } finally {
    closeSync(logFd);
  }
}

function unavailable(message: string, log: string, offset: number): WarrenError {
  const lines = lastLines(log, offset);
  const tail = lines.length > 0 ? `; the end of ${log}:\n${lines.join("\n")}` : "";
  return new WarrenError("engine_unavailable", `${message}${tail}`, {
    hint: "warren doctor tells what is missing on this machine",
  });
}

/** At most 10 lines of what was written since `offset`, from at most the last 8 KiB. */
function lastLines(path: string, offset: number): string[] {
  const fd = openSync(path, "r");
  try {
    const size = fstatSync(fd).size;
    const start = Math.max(offset, size - 8192);
    const bytes = Buffer.alloc(Math.max(0, size - start));
    const length = readSync(fd, bytes, 0, bytes.length, start);
    const text = bytes.toString("utf8", 0, length).trim();
    return text === "" ? [] : text.split("\n").slice(-10);
  } finally {
    closeSync(fd);
  }
}
