import { WarrenError } from "../contracts/errors.ts";
import type { Runtime } from "../contracts/runtime.ts";
import type { Logger } from "../lib/log.ts";
import { cancelled, linkSignals, throwIfAborted } from "../lib/signals.ts";
import type { Clock } from "./clock.ts";

/** Opens a driver; called again, at the next use, when it failed. */
export type RuntimeOpener = () => Promise<Runtime>;

/** How long the start of an engine waits for runtimes beside the default one. What takes longer goes on beside it. */
const START_WAIT_MS = 3_000;
/** How long a call waits until its runtime is open. */
const OPEN_WAIT_MS = 20_000;
/** How long a closing engine waits for openings under way, which nobody can end. */
const CLOSE_WAIT_MS = 5_000;
/** Between tries to reach a runtime that may have sandboxes: the first wait, doubled each time up to the last. */
const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 30_000;

/**
 * The runtimes that sandboxes may have. The default one is opened with the engine. So is each that may have sandboxes, but
 * the engine runs without it when it can't be opened, and tries again. Others are opened at their first use. Before anybody
 * gets a runtime its sandboxes are brought in order.
 */
export interface Runtimes {
  /** Of all that may be used, opened or not. */
  readonly names: readonly string[];
  readonly defaultName: string;
  /** If it is open and its sandboxes are in order. It may be out of reach since: then its own calls say so. */
  ready(name: string): Runtime | undefined;
  /** For whoever holds the turn of a sandbox: one that is open already. Throws `runtime_unavailable`. */
  opened(name: string): Runtime;
  /** Ready when it resolves. Not to be called in a sandbox's turn, which that may need. Throws `runtime_unavailable`. */
  use(name: string, signal?: AbortSignal): Promise<Runtime>;
  /** Why its sandboxes can't be reached now; undefined when they can, or nobody has tried. */
  trouble(name: string): WarrenError | undefined;
  /** Takes note of a failure that says that the runtime is out of reach; others are not its business. */
  note(name: string, error: unknown): void;
  /** To be called when a runtime in trouble has answered: its sandboxes are looked at now. */
  answered(name: string): void;
  /** The default one, and those that have sandboxes or anything else of ours, or may have had. */
  inUse(): string[];
  /** Opens those of `inUse` that aren't, and brings the default one in order. Failures show as their trouble. */
  start(inUse: readonly string[]): Promise<void>;
  /** No try begins any more, and those under way are over, or have had their time. */
  idle(): Promise<void>;
  close(): Promise<void>;
}

interface Slot {
  name: string;
  open: RuntimeOpener;
  runtime?: Runtime;
  isReady: boolean;
  inUse: boolean;
  attempt?: Promise<Runtime> | undefined;
  trouble?: WarrenError | undefined;
  /** Fruitless tries in a row. */
  tries: number;
  retry?: { cancel(): void } | undefined;
}

export interface RuntimesOptions {
  /** By name. One that is open already is the engine's to close, too. */
  runtimes: Readonly<Record<string, Runtime | RuntimeOpener>>;
  defaultRuntime: string;
  clock: Clock;
  log: Logger;
  closing: AbortSignal;
  /** `again`: it was in order once, and sandboxes may be in use. */
  bringInOrder(runtime: Runtime, again: boolean): Promise<void>;
}

export function createRuntimes(options: RuntimesOptions): Runtimes {
  const { clock, log, closing } = options;
  const slots = new Map(Object.entries(options.runtimes).map(([name, given]) => [name, slotOf(name, given)]));
  const all = () => [...slots.values()];
  const slotNamed = (name: string): Slot => {
    const slot = slots.get(name);
    if (slot) return slot;
    throw notConfigured(name);
  };

  /** One at a time for each; whoever asks meanwhile gets the same. */
  function attempt(slot: Slot): Promise<Runtime> {
    slot.retry?.cancel();
    slot.retry = undefined;
    slot.attempt ??= bringUp(slot).finally(() => {
      slot.attempt = undefined;
    });
    return slot.attempt;
  }

  async function bringUp(slot: Slot): Promise<Runtime> {
    const { name, trouble } = slot;
    try {
      slot.runtime ??= await openUnlessClosing(slot);
      await options.bringInOrder(slot.runtime, slot.isReady);
    } catch (cause) {
      throwIfAborted(closing);
      slot.trouble = unavailable(name, cause);
      if (slot.trouble.message !== trouble?.message)
        log.error({ err: cause, runtime: name }, slot.trouble.message);
      retryLater(slot);
      throw slot.trouble;
    }
    if (trouble) log.info({ runtime: name }, "a runtime can be used again");
    slot.isReady = true;
    slot.inUse = true;
    slot.tries = 0;
    // What was noted meanwhile is newer than what has just gone well.
    if (slot.trouble === trouble) slot.trouble = undefined;
    else retryLater(slot);
    return slot.runtime;
  }

  async function openUnlessClosing(slot: Slot): Promise<Runtime> {
    throwIfAborted(closing);
    const runtime = await slot.open();
    // Somebody else may have the state directory next.
    if (closing.aborted) await runtime.close();
    throwIfAborted(closing);
    return runtime;
  }

  /** One that never had a sandbox is tried at its next use only. */
  function retryLater(slot: Slot): void {
    if (!slot.inUse || closing.aborted) return;
    slot.retry?.cancel();
    const delayMs = Math.min(FIRST_RETRY_MS * 2 ** slot.tries++, LAST_RETRY_MS);
    slot.retry = clock.after(delayMs, () => {
      attempt(slot).catch(() => {}); // told as its trouble
    });
  }

  return {
    names: [...slots.keys()],
    defaultName: options.defaultRuntime,
    ready: (name) => readyOne(slots.get(name)),
    opened(name) {
      const slot = slotNamed(name);
      if (slot.runtime) return slot.runtime;
      throw slot.trouble ?? notOpenYet(name);
    },
    async use(name, signal) {
      const slot = slotNamed(name);
      return (
        readyOne(slot) ?? (await inTime(OPEN_WAIT_MS, attempt(slot), () => notOpenYet(name), signal, closing))
      );
    },
    trouble(name) {
      const slot = slots.get(name);
      if (!slot) return notConfigured(name);
      return slot.trouble ?? (slot.attempt && !slot.isReady ? notOpenYet(name) : undefined);
    },
    note(name, error) {
      const slot = slots.get(name);
      if (!slot || !isUnavailable(error)) return;
      if (!slot.trouble) log.error({ err: error, runtime: name }, "a runtime is out of reach");
      slot.trouble = unavailable(name, error);
      if (!slot.retry && !slot.attempt) retryLater(slot);
    },
    answered(name) {
      const slot = slots.get(name);
      if (slot?.trouble && !closing.aborted) attempt(slot).catch(() => {}); // told as its trouble
    },
    inUse: () =>
      all()
        .filter((slot) => slot.inUse)
        .map(({ name }) => name),
    async start(inUse) {
      for (const slot of all()) {
        slot.inUse ||= slot.name === options.defaultRuntime || inUse.includes(slot.name);
      }
      const others = all().filter((slot) => slot.inUse && slot.name !== options.defaultRuntime);
      const opening = Promise.allSettled(others.map(attempt));
      await attempt(slotNamed(options.defaultRuntime)).catch(() => {}); // told as its trouble
      await atMost(START_WAIT_MS, opening);
    },
    async idle() {
      for (const slot of all()) slot.retry?.cancel();
      await atMost(CLOSE_WAIT_MS, Promise.allSettled(all().map((slot) => slot.attempt)));
    },
    async close() {
      await Promise.allSettled(all().map((slot) => slot.runtime?.close()));
    },
  };
}

/** True of a failure that says nothing about a sandbox: nobody could be asked. */
export function isUnavailable(error: unknown): error is WarrenError {
  return error instanceof WarrenError && error.code === "runtime_unavailable";
}

function slotOf(name: string, given: Runtime | RuntimeOpener): Slot {
  const slot = { name, isReady: false, inUse: false, tries: 0 };
  return typeof given === "function"
    ? { ...slot, open: given }
    : { ...slot, open: async () => given, runtime: given };
}

const readyOne = (slot: Slot | undefined) => (slot?.isReady ? slot.runtime : undefined);

function unavailable(name: string, cause: unknown): WarrenError {
  if (isUnavailable(cause)) return cause;
  const why = cause instanceof Error ? cause.message : String(cause);
  const hint =
    (cause instanceof WarrenError ? cause.hint : undefined) ?? "warren doctor tells what is missing";
  return new WarrenError("runtime_unavailable", `the runtime ${name} can't be used now: ${why}`, {
    hint,
    cause,
  });
}

function notOpenYet(name: string): WarrenError {
  return new WarrenError("runtime_unavailable", `the runtime ${name} is still being opened`, {
    hint: "try again; warren doctor tells what is missing",
  });
}

function notConfigured(name: string): WarrenError {
  return new WarrenError("runtime_unavailable", `the runtime ${name} is not configured`, {
    hint: `let the engine use it: warren serve --runtimes (or WARREN_RUNTIMES) with ${name}`,
  });
}

/** Resolves when the work is over, in whatever way, or the time is. */
async function atMost(ms: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work, late]).catch(() => {});
  clearTimeout(timer);
}

/** The work goes on when the caller, or the time, does not wait for it any more. */
async function inTime<T>(
  ms: number,
  work: Promise<T>,
  late: () => WarrenError,
  ...until: (AbortSignal | undefined)[]
): Promise<T> {
  const time = new AbortController();
  const timer = setTimeout(() => time.abort(late()), ms);
  using either = linkSignals(time.signal, ...until);
  const { signal } = either;
  const gaveUp = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(cancelled(signal)), { once: true });
    if (signal.aborted) reject(cancelled(signal));
  });
  try {
    return await Promise.race([work, gaveUp]);
  } finally {
    clearTimeout(timer);
  }
}
