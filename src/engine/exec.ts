import { WarrenError } from "../contracts/errors.ts";
import {
  type ExecExit,
  ExecRequest,
  type ExecResult,
  type ExecSession,
  ExecStreamRequest,
} from "../contracts/exec.ts";
import type { GuestClient, GuestExit, GuestSession, SpawnRequest } from "../guest/types.ts";
import { parseInput } from "../lib/parse.ts";
import { cancelled, linkSignals, throwIfAborted } from "../lib/signals.ts";
import { type Core, inRunning, runtimeOf, whyLost } from "./core.ts";
import type { EgressManager } from "./egress/manager.ts";
import { createExecSlots } from "./exec-slots.ts";
import { CappedOutput, createOutputBudget } from "./output.ts";
import type { SandboxRecord } from "./record.ts";

/** Bytes kept of each of stdout and stderr when the request names no number. */
const DEFAULT_MAX_OUTPUT = 8 * 1024 * 1024;

/** How much later than promised a guest may answer before it counts as lost. */
const GUEST_GRACE_MS = 5_000;

/** With what the engine alone knows of it. */
type EngineExit = GuestExit & Pick<ExecExit, "denied">;

export interface Execs {
  exec(wanted: string, input: ExecRequest, signal?: AbortSignal): Promise<ExecResult>;
  execStream(wanted: string, input: ExecStreamRequest, signal?: AbortSignal): Promise<ExecSession>;
  /** Kills every command that still runs, and waits until they are let go. */
  close(): Promise<void>;
}

/** Runs commands. They don't wait for lifecycle steps nor for each other. `denials`: those of a sandbox. */
export function createExecs(core: Core, denials: EgressManager["denials"]): Execs {
  const slots = createExecSlots(core.config);
  const budget = createOutputBudget(core.config.maxTotalOutputBytes);
  const sessions = new Set<GuestSession>();

  /** Starts a command; when it has ended, in whatever way, its slot is free again. */
  async function spawn(
    guest: GuestClient,
    record: SandboxRecord,
    request: SpawnRequest,
    signal: AbortSignal | undefined,
  ): Promise<{ session: GuestSession; exit: Promise<EngineExit> }> {
    const slot = slots.take(record.id);
    try {
      const runtime = runtimeOf(core, record);
      const oomKillsBefore = runtime.oomKills(record.id) ?? 0;
      const deniedBefore = await denials(record.id);
      core.onStep("exec.begun");
      const session = await guest.spawn(request, signal === undefined ? {} : { signal });
      core.onStep("exec.spawned");
      sessions.add(session);
      if (core.closing.aborted) void session[Symbol.asyncDispose]();
      const kill = () => void session.kill().catch(() => {}); // already ended
      signal?.addEventListener("abort", kill, { once: true });
      if (signal?.aborted) kill();
      const exit = session.exit
        .then(async (how) => {
          core.onStep("exec.ended");
          // Counted only when the command itself was killed: 137 is also how a shell tells it of its child.
          const killed = how.exit_code === 137 && how.timed_out !== true;
          const oomKilled = killed && (runtime.oomKills(record.id) ?? 0) > oomKillsBefore;
          const denied = (await denials(record.id, { isExact: true })) - deniedBefore;
          return { ...how, ...(oomKilled ? { oom_killed: true } : {}), ...(denied > 0 ? { denied } : {}) };
        })
        .finally(() => {
          signal?.removeEventListener("abort", kill);
          sessions.delete(session);
          slot[Symbol.dispose]();
        });
      exit.catch(() => {}); // whoever waits for it is told; nobody has to
      return { session, exit };
    } catch (error) {
      slot[Symbol.dispose]();
      if (signal?.aborted) throw cancelled(signal);
      throw error;
    }
  }

  return {
    async exec(wanted, input, signal) {
      throwIfAborted(signal);
      const request = parseInput(ExecRequest, input);
      const maxOutput = request.max_output ?? DEFAULT_MAX_OUTPUT;
      return await inRunning(core, wanted, async (guest, record) => {
        const startedAt = performance.now();
        using limit = timeLimit(request.timeout, signal);
        const { session, exit } = await spawn(
          guest,
          record,
          {
            ...commandOf(record, request),
            stdin: request.stdin !== undefined,
            // To the guest 0 means everything; what comes above our own cap is dropped here.
            maxOutputBytes: Math.max(maxOutput, 1),
          },
          limit.signal,
        );
        await using _ = session;
        if (request.stdin !== undefined) {
          // Not waited for: a command need not read its input.
          feed(session, request.stdin).catch(() => {});
        }
        using stdout = new CappedOutput(maxOutput, budget);
        using stderr = new CappedOutput(maxOutput, budget);
        const how = await collect(session, exit, { stdout, stderr });
        if (signal?.aborted) throw cancelled(signal);
        // Killed by our own leave: not an end that the command came to, and no `shutting_down`, which did nothing.
        if (how.signal === "SIGKILL" && core.closing.aborted) {
          throw new WarrenError("cancelled", "the engine was shut down while the command ran");
        }
        const out = stdout.finish(how.stdoutTruncated);
        const err = stderr.finish(how.stderrTruncated);
        return {
          ...plainExit(how),
          stdout: out.text,
          stderr: err.text,
          ...(out.base64 === undefined ? {} : { stdout_base64: out.base64 }),
          ...(err.base64 === undefined ? {} : { stderr_base64: err.base64 }),
          ...(out.truncated ? { stdout_truncated: true } : {}),
          ...(err.truncated ? { stderr_truncated: true } : {}),
          duration_ms: performance.now() - startedAt,
        };
      });
    },

    async execStream(wanted, input, signal) {
      throwIfAborted(signal);
      const request = parseInput(ExecStreamRequest, input);
      return await inRunning(core, wanted, async (guest, record) => {
        const limit = timeLimit(request.timeout, signal);
        try {
          const { session, exit } = await spawn(
            guest,
            record,
            {
              ...commandOf(record, request),
              stdin: request.stdin ?? false,
              ...(request.tty ? { tty: { cols: request.cols ?? 80, rows: request.rows ?? 24 } } : {}),
            },
            limit.signal,
          );
          // A reader who is slow may take longer than the command; that it ends in time is the guest's to keep.
          limit.isStarted();
          exit.finally(() => limit[Symbol.dispose]()).catch(() => {});
          return streamOf(core, record, session, exit);
        } catch (error) {
          limit[Symbol.dispose]();
          throw error;
        }
      });
    },

    async close() {
      await Promise.allSettled([...sessions].map((session) => session[Symbol.asyncDispose]()));
    },
  };
}

/** The part of a request that both kinds of command share. */
function commandOf(
  record: SandboxRecord,
  request: Pick<ExecRequest, "cmd" | "env" | "workdir" | "user" | "timeout">,
): SpawnRequest {
  const user = request.user ?? record.spec?.user;
  return {
    argv: request.cmd,
    env: { ...record.spec?.env, ...request.env },
    cwd: request.workdir ?? record.spec?.workdir ?? "/",
    ...(user === undefined || user === "" ? {} : { user }),
    // A fraction of a millisecond must not become 0, which is no timeout.
    ...(request.timeout ? { timeoutMs: Math.ceil(request.timeout * 1000) } : {}),
  };
}

async function feed(session: GuestSession, text: string): Promise<void> {
  await session.write(Buffer.from(text, "utf8"));
  await session.end();
}

async function collect(
  session: GuestSession,
  exit: Promise<EngineExit>,
  into: { stdout: CappedOutput; stderr: CappedOutput },
): Promise<EngineExit> {
  for await (const { stream, data } of session.output) into[stream].push(data);
  return await exit;
}

/**
 * Fires with the caller's signal, and with `guest_failed` when a guest neither starts the command nor ends it in time;
 * when it was said to have started, only with the caller's. It ends the session's connection, and so all that waits for the guest.
 */
function timeLimit(
  timeoutS: number | undefined,
  signal: AbortSignal | undefined,
): Disposable & { signal: AbortSignal; isStarted(): void } {
  const passed = new AbortController();
  const giveUp = () =>
    passed.abort(new WarrenError("guest_failed", "the sandbox did not end the command at its timeout"));
  const timer = timeoutS ? setTimeout(giveUp, timeoutS * 1000 + GUEST_GRACE_MS) : undefined;
  const link = linkSignals(signal, passed.signal);
  return {
    signal: link.signal,
    isStarted: () => clearTimeout(timer),
    [Symbol.dispose]() {
      clearTimeout(timer);
      link[Symbol.dispose]();
    },
  };
}

function plainExit(how: EngineExit): ExecExit {
  return {
    exit_code: how.exit_code,
    ...(how.signal === undefined ? {} : { signal: how.signal }),
    ...(how.timed_out ? { timed_out: true } : {}),
    ...(how.oom_killed ? { oom_killed: true } : {}),
    ...(how.denied ? { denied: how.denied } : {}),
  };
}

/** What is shown of a guest's session: without the guest's own business, and with the reason when it is lost. */
function streamOf(
  core: Core,
  record: SandboxRecord,
  session: GuestSession,
  exit: Promise<EngineExit>,
): ExecSession {
  const explained = exit.then(plainExit, (error: unknown) => {
    throw whyLost(core, record, error);
  });
  explained.catch(() => {}); // whoever waits for it is told; nobody has to
  return {
    output: session.output,
    exit: explained,
    write: (data) => session.write(data),
    end: () => session.end(),
    resize: (cols, rows) => session.resize(cols, rows),
    signal: (name) => session.signal(name),
    [Symbol.asyncDispose]: () => session[Symbol.asyncDispose](),
  };
}
