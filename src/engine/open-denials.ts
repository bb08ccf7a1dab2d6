import type { WarrenError } from "../contracts/errors.ts";
import type { NetworkDecision, NetworkRules } from "../contracts/network.ts";
import type { Denial, DenialWatch } from "../contracts/runtime.ts";
import { asWarrenError, type Core, runtimeOf } from "./core.ts";
import { createRecorder, type Recorder } from "./egress/recorder.ts";
import { explainOpen } from "./open-network.ts";
import type { SandboxRecord } from "./record.ts";

/** Denials that wait for a change of rules to be done; more than the kernel tells of within the time that one may take. */
const MOST_WAITING = 1_000;

/** What the packet filters of sandboxes with open network deny, as decisions. It enforces nothing: they hold without it. */
export interface OpenDenials {
  /** Of a sandbox that has just come to run, or was found running. What was denied before is not known. */
  follow(record: SandboxRecord): void;
  forget(id: string): void;
  /** What is denied during a change of rules is explained by the new ones, or else by the old ones. */
  during<T>(id: string, change: () => Promise<T>): Promise<T>;
  /** How many have been denied; `isExact`: all up to the call count, which takes a moment. */
  count(id: string, options?: { isExact?: boolean }): Promise<number>;
  counts(id: string): { allowed: number; denied: number } | undefined;
  /** The last ones, the oldest first. Throws `unsupported` when there are none because they can't be recorded. */
  decisions(id: string): NetworkDecision[];
  /** Whether they are recorded now. */
  records(id: string): boolean;
  close(): void;
}

/** What decides on packets, and the rules that are the reasons. */
interface Judge {
  items: readonly string[];
  rules: NetworkRules;
}

interface Followed {
  recorder: Recorder;
  /** Undefined when it could not be opened. */
  watch: Promise<DenialWatch | undefined>;
  isOver: boolean;
  failure?: WarrenError;
  now?: Judge;
  before?: Judge | undefined;
  /** During a change of rules. */
  waiting?: Denial[] | undefined;
}

export function createOpenDenials(
  core: Core,
  tell: (id: string, decision: NetworkDecision) => void,
): OpenDenials {
  const all = new Map<string, Followed>();
  const watches = new Set<DenialWatch>();

  const judgeOf = async (record: SandboxRecord): Promise<Judge> => ({
    items: await runtimeOf(core, record).reachItems(record.id),
    rules: record.network ?? {},
  });

  const record = (followed: Followed, denial: Denial) => {
    const { cause, protocol, address, port } = denial;
    const judged = cause === "connections" ? tooMany : explained(denial, followed);
    followed.recorder.record({ host: address, port, protocol, ...judged });
  };

  const open = async (sandbox: SandboxRecord, followed: Followed): Promise<DenialWatch | undefined> => {
    const { id } = sandbox;
    const fail = (failure: WarrenError) => {
      followed.isOver = true;
      followed.failure = failure;
      if (all.get(id) !== followed || failure.code === "sandbox_wrong_state") return;
      core.log.warn({ err: failure, sandbox: id }, "what a sandbox's network denies is not recorded");
    };
    try {
      const judge = await judgeOf(sandbox);
      followed.now ??= judge;
      const watch = await runtimeOf(core, sandbox).watchDenied(id, (denial) => {
        if (!followed.waiting) record(followed, denial);
        else if (followed.waiting.length < MOST_WAITING) followed.waiting.push(denial);
      });
      watches.add(watch);
      void watch.ended.then((failure) => {
        watches.delete(watch);
        followed.isOver = true;
        if (failure) fail(failure);
      });
      // Stopped meanwhile, or the engine closes.
      if (all.get(id) !== followed) watch[Symbol.dispose]();
      return watch;
    } catch (cause) {
      fail(asWarrenError(cause, `what is denied sandbox ${id} can't be told`));
      return undefined;
    }
  };

  const settle = async (followed: Followed) => {
    await (await followed.watch)?.settle();
  };

  const forget = (id: string) => {
    const followed = all.get(id);
    if (!followed) return;
    all.delete(id);
    // What its programs did last may still be on its way.
    void settle(followed)
      .then(() => followed.watch)
      .then((watch) => {
        watch?.[Symbol.dispose]();
        followed.recorder.flush();
      });
  };

  return {
    follow(sandbox) {
      const { id, spec } = sandbox;
      if (spec?.network !== "open" || all.has(id)) return;
      const recorder = createRecorder(core.clock, (decision) => tell(id, decision));
      const followed: Followed = { recorder, watch: Promise.resolve(undefined), isOver: false };
      all.set(id, followed);
      followed.watch = open(sandbox, followed);
    },
    forget,
    async during(id, change) {
      const followed = all.get(id);
      if (!followed) return await change();
      // What was denied by the rules of before is told by them.
      await settle(followed);
      followed.waiting = [];
      try {
        return await change();
      } finally {
        const sandbox = core.table.get(id);
        const judge = sandbox && (await judgeOf(sandbox).catch(() => undefined));
        await settle(followed);
        followed.before = followed.now;
        if (judge) followed.now = judge;
        const waiting = followed.waiting ?? [];
        followed.waiting = undefined;
        for (const denial of waiting) record(followed, denial);
      }
    },
    async count(id, { isExact = false } = {}) {
      const followed = all.get(id);
      if (!followed) return 0;
      await (isExact ? settle(followed) : followed.watch);
      return followed.recorder.counts().denied;
    },
    counts: (id) => all.get(id)?.recorder.counts(),
    decisions(id) {
      const { recorder, failure } = all.get(id) ?? {};
      const decisions = recorder?.decisions() ?? [];
      if (decisions.length === 0 && failure) throw failure;
      return decisions;
    },
    records: (id) => all.get(id)?.isOver === false,
    close() {
      for (const id of [...all.keys()]) {
        all.get(id)?.recorder.flush();
        all.delete(id);
      }
      for (const watch of watches) watch[Symbol.dispose]();
    },
  };
}

type Explanation = Pick<NetworkDecision, "allowed" | "cause" | "reason" | "rule">;

const tooMany: Explanation = {
  allowed: false,
  cause: "limit",
  reason: "it has as many connections as a sandbox may have",
};

/** By the rules of now, or, when they would allow it, by those of before. */
function explained({ address, port }: Denial, { now, before }: Followed): Explanation {
  for (const judge of [now, before]) {
    const explanation = judge && explainOpen(address, port, judge.items, judge.rules);
    if (explanation && !explanation.allowed) return explanation;
  }
  return { allowed: false, cause: "rule", reason: "denied by the rules of that moment" };
}
