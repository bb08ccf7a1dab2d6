import { WarrenError } from "../contracts/errors.ts";
import type { GuestExit } from "../guest/types.ts";
import { announce, asWarrenError, type Core, guestOf, runtimeOf } from "./core.ts";
import type { LogCollector } from "./logs/collector.ts";
import { isAlive, type SandboxRecord } from "./record.ts";
import { isUnavailable } from "./runtimes.ts";
import type { RecordPatch } from "./table.ts";
import { createWatches, type Ending } from "./watch.ts";

/** Exit code that a shell reports for a command that SIGKILL ended. */
const SIGKILL_EXIT_CODE = 137;

/** How long the end of the main command may take to arrive after the sandbox has stopped: its bytes are already sent. */
const EXIT_WAIT_MS = 500;

/** Waits before the guest of a sandbox that lives is asked again. The first is short: most losses are deaths. */
const retryDelaysMs = [10, 100, 1000, 5000] as const;
/** So many fruitless tries, and the sandbox shows as in error. */
const PATIENT_TRIES = 3;
/** How often a paused sandbox, whose guest can't answer, is looked at. */
const PAUSED_LOOK_MS = 5000;
/** How often a sandbox whose runtime is out of reach is looked at. */
const UNREACHABLE_RETRY_MS = 5000;
/** Until an end that could not be stored is handled again. */
const ENDING_RETRY_MS = 5000;
/** A watch that lasted so long was a good one: what follows is a new trouble. */
const GOOD_WATCH_MS = 60_000;

/** What serves sandboxes as long as they run. */
type Followers = readonly { follow(record: SandboxRecord): void; forget(id: string): void }[];

/** Keeps the records of running sandboxes true: ends, deaths and silences are seen and stored. */
export interface Supervisor {
  /** Follows a sandbox that has just come to run, or was found running. */
  watch(record: SandboxRecord): void;
  unwatch(id: string): Promise<void>;
  /** Ends a sandbox and stores how. For callers whose turn it is; throws what the runtime throws. */
  stop(record: SandboxRecord, graceMs: number, why?: RecordPatch): Promise<SandboxRecord>;
  close(): void;
}

export function createSupervisor(core: Core, logs: LogCollector, ways: Followers): Supervisor {
  const { table, mutex, log, clock, config } = core;
  const watches = createWatches();
  const retries = new Map<string, { cancel(): void }>();

  return {
    watch(record) {
      logs.follow(record);
      for (const way of ways) way.follow(record);
      if (record.state === "paused") lookLater(record);
      else follow(record, 0);
    },
    async unwatch(id) {
      forget(id);
      for (const way of ways) way.forget(id);
      await watches.finish(id, 0);
    },
    stop,
    close() {
      for (const retry of retries.values()) retry.cancel();
      retries.clear();
      watches.close();
    },
  };

  function follow(record: SandboxRecord, tries: number): void {
    forget(record.id);
    const since = performance.now();
    watches.attach(record.id, guestOf(core, record), (ending) => {
      const triesSoFar = performance.now() - since > GOOD_WATCH_MS ? 0 : tries;
      const handle = () => {
        if (core.closing.aborted) return;
        mutex
          .run(record.id, () => onEnding(record, ending, triesSoFar))
          .catch((error: unknown) => {
            log.error({ err: error, sandbox: record.id }, "the end of a sandbox could not be handled");
            // A full disk, perhaps: its record must not stay untrue.
            retries.set(record.id, clock.after(ENDING_RETRY_MS, handle));
          });
      };
      handle();
    });
  }

  async function onEnding(watched: SandboxRecord, ending: Ending, tries: number): Promise<void> {
    const record = table.get(watched.id);
    // Stopped, removed or started anew while this waited for its turn.
    if (record?.startedAt !== watched.startedAt || !isAlive(record)) return;
    if ("exit" in ending) {
      await logs.drain(record.id);
      announce(core, "stopped", await stop(record, config.stopGraceMs, endOfMain(record, ending.exit)));
      return;
    }
    const runtime = runtimeOf(core, record);
    const seen = await runtime
      .inspect(record.id)
      .catch((error: unknown) => (isUnavailable(error) ? error : ("unknown" as const)));
    if (seen instanceof WarrenError) {
      // That its runtime is out of reach says nothing about it.
      core.runtimes.note(record.runtime, seen);
      if (record.state === "paused") lookLater(record);
      else lookAgain(record, tries, UNREACHABLE_RETRY_MS);
      return;
    }
    if (seen !== "unknown") core.runtimes.answered(record.runtime);
    if (record.state === "paused" && seen !== "unknown" && seen?.state === "paused") {
      lookLater(record);
      return;
    }
    if (seen === "unknown" || seen?.state === "running" || seen?.state === "paused") {
      onSilence(record, ending.lost, tries);
      return;
    }
    log.warn({ sandbox: record.id, err: ending.lost }, "a sandbox ended unasked");
    if (!seen) {
      const error = "its runtime no longer knows it";
      announce(core, "failed", table.update(record.id, { state: "error", error, pid: undefined }));
      return;
    }
    const oomKilled = hasOomKills(record);
    const error = oomKilled
      ? "the kernel killed its first process for want of memory"
      : "its first process was killed";
    announce(core, "stopped", await stop(record, 0, { error, ...(oomKilled ? { oomKilled } : {}) }));
  }

  /** The guest of a paused sandbox can't answer, so its runtime is asked whether it still is there. */
  function lookLater(record: SandboxRecord): void {
    forget(record.id);
    const look = () => {
      mutex
        .run(record.id, async () => {
          if (core.closing.aborted || table.get(record.id)?.state !== "paused") return;
          await onEnding(record, { lost: undefined }, 0);
        })
        .catch((error: unknown) => {
          log.error({ err: error, sandbox: record.id }, "a paused sandbox could not be looked at");
        });
    };
    retries.set(record.id, clock.after(PAUSED_LOOK_MS, look));
  }

  /** It lives but can't be reached: perhaps our fault (no file descriptors left), so it is not killed for that. */
  function onSilence(record: SandboxRecord, reason: unknown, tries: number): void {
    if (tries >= PATIENT_TRIES && record.state === "running") {
      log.warn({ sandbox: record.id, err: reason }, "a sandbox's guest does not answer");
      const error = "it runs, but its guest does not answer";
      announce(core, "failed", table.update(record.id, { state: "error", error }));
    }
    const delay = retryDelaysMs[Math.min(tries, retryDelaysMs.length - 1)] ?? 0;
    lookAgain(record, tries + 1, delay);
  }

  function lookAgain(record: SandboxRecord, tries: number, delayMs: number): void {
    retries.set(
      record.id,
      clock.after(delayMs, () => void retry(record, tries)),
    );
  }

  async function retry(watched: SandboxRecord, tries: number): Promise<void> {
    const answered = await guestOf(core, watched)
      .hello()
      .then(
        () => true,
        () => false,
      );
    const record = table.get(watched.id);
    if (record?.startedAt !== watched.startedAt || !isAlive(record) || core.closing.aborted) return;
    if (answered) core.runtimes.answered(record.runtime);
    if (answered && record.state === "error") {
      announce(core, "started", table.update(record.id, { state: "running", error: undefined }));
    }
    follow(record, tries);
  }

  async function stop(record: SandboxRecord, graceMs: number, why: RecordPatch = {}): Promise<SandboxRecord> {
    const { id } = record;
    forget(id);
    for (const way of ways) way.forget(id);
    // With what is known of the end already: `stopping` shows as stopped, and a client reads the exit code then.
    table.update(id, { state: "stopping", ...why });
    try {
      await runtimeOf(core, record).stop(id, { timeoutMs: graceMs });
    } catch (cause) {
      const error = asWarrenError(cause, `sandbox ${id} could not be stopped`);
      await watches.finish(id, 0);
      announce(core, "failed", table.update(id, { state: "error", error: error.message }));
      throw error;
    }
    const exit = await watches.finish(id, EXIT_WAIT_MS);
    await logs.finish(id);
    return table.update(id, {
      state: "stopped",
      pid: undefined,
      stoppedAt: clock.now(),
      error: undefined,
      ...(exit ? { exitCode: exit.exit_code } : {}),
      ...why,
    });
  }

  function endOfMain(record: SandboxRecord, exit: GuestExit): RecordPatch {
    const oomKilled = exit.exit_code === SIGKILL_EXIT_CODE && hasOomKills(record);
    return { exitCode: exit.exit_code, ...(oomKilled ? { oomKilled } : {}) };
  }

  function hasOomKills(record: SandboxRecord): boolean {
    return (runtimeOf(core, record).oomKills(record.id) ?? 0) > 0;
  }

  function forget(id: string): void {
    retries.get(id)?.cancel();
    retries.delete(id);
  }
}
