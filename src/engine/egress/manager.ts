import type { Caller } from "../../contracts/api.ts";
import { WarrenError } from "../../contracts/errors.ts";
import {
  NetworkChange,
  type NetworkDecision,
  NetworkRules,
  type NetworkState,
} from "../../contracts/network.ts";
import type { SandboxInfo } from "../../contracts/sandbox.ts";
import { parseInput } from "../../lib/parse.ts";
import { documentedPresets, type Presets, presetNames } from "../../lib/presets/presets.ts";
import { acceptAll } from "../accept-loop.ts";
import { announce, type Core, guestOf, notRunning, readyRecord, runtimeOf } from "../core.ts";
import { sandboxInfo } from "../info.ts";
import { checkRules, refuseLearning } from "../network.ts";
import { createOpenDenials } from "../open-denials.ts";
import { changeOpenRules, explainOpen } from "../open-network.ts";
import type { SandboxRecord } from "../record.ts";
import type { SecretKeeper } from "../secrets/keeper.ts";
import { createEgress, type Egress } from "./egress.ts";
import { learntRule, MOST_LEARNT } from "./learnt.ts";
import { compilePolicy, type EgressRules } from "./policy.ts";
import { auditNetwork } from "./policy-audit.ts";
import { createRecorder, type Recorder } from "./recorder.ts";
import { createResolver, type Resolve } from "./resolver.ts";

/** Connections that wait inside each sandbox for a program that wants out: so many can come at once without waiting. */
const WAITING = 4;
/** What was learnt is stored so long after it was. */
const STORE_LEARNT_MS = 1_000;

/** The ways out of all sandboxes with filtered network that run, and rules and denials, of those with open network too. */
export interface EgressManager {
  /** Opens the way out of a sandbox that has just come to run, or was found running. */
  follow(record: SandboxRecord): void;
  /** Closes it. */
  forget(id: string): void;
  /** After a change of a sandbox's secrets. */
  refreshSecrets(record: SandboxRecord): void;
  state(wanted: string): NetworkState;
  set(wanted: string, rules: NetworkRules, by?: Caller): Promise<SandboxInfo>;
  change(wanted: string, change: NetworkChange, by?: Caller): Promise<SandboxInfo>;
  explain(wanted: string, host: string, port: number): Promise<NetworkDecision>;
  /** The last ones, the oldest first. */
  decisions(wanted: string): NetworkDecision[];
  /** How many connections have been denied since it runs; `isExact`: all up to the call count. */
  denials(id: string, options?: { isExact?: boolean }): Promise<number>;
  close(): void;
}

export interface EgressManagerOptions {
  resolve?: Resolve;
  presets?: Presets;
}

interface Way {
  egress: Egress;
  stop: AbortController;
  recorder: Recorder;
  learnt: Learnt;
  /** What its guest says of programs that know no proxy; undefined until it has. */
  captures?: boolean;
}

export function createEgressManager(
  core: Core,
  secrets: SecretKeeper,
  { resolve = createResolver(), presets = documentedPresets }: EgressManagerOptions = {},
): EgressManager {
  const ways = new Map<string, Way>();

  const attach = (record: SandboxRecord) => {
    if (record.spec?.network !== "filtered" || ways.has(record.id)) return;
    const { id } = record;
    const recorder = createRecorder(core.clock, (decision) => tell(id, decision));
    const learnt = createLearnt(core, id);
    const egress = createEgress({
      rules: rulesOf(record),
      presets,
      resolve,
      secrets: { all: secrets.live(record), tls: secrets.tls },
      onDecision(event) {
        recorder.record(event);
        if (core.table.get(id)?.network?.learn) learnt.add(event);
      },
    });
    const way: Way = { egress, stop: new AbortController(), recorder, learnt };
    ways.set(id, way);
    guestOf(core, record)
      .hello()
      .then(
        ({ captures }) => {
          way.captures = captures;
        },
        () => {}, // who supervises it finds out
      );
    secrets.prepare(record, record.spec).catch((error: unknown) => {
      core.log.warn({ err: error, sandbox: id }, "a sandbox could not be told to trust the engine");
    });
    const guest = guestOf(core, record);
    for (let i = 0; i < WAITING; i++) {
      void acceptAll(
        (stop) => guest.accept(stop),
        ({ socket, target }) => {
          if (target) egress.serveDirect(socket, target.host, target.port);
          else egress.serve(socket);
        },
        way.stop.signal,
      );
    }
  };

  const tell = (id: string, decision: NetworkDecision) => {
    core.audit.write({ type: "decision", sandbox: id, ...decision });
    if (!decision.allowed) core.log.info({ sandbox: id, ...decision }, "a sandbox was denied a connection");
    const record = core.table.get(id);
    if (record)
      core.events.emit({ type: "network", at: core.clock.now(), sandbox: sandboxInfo(record), decision });
  };

  const openDenials = createOpenDenials(core, tell);

  const follow = (record: SandboxRecord) => {
    if (isOpen(record)) openDenials.follow(record);
    else attach(record);
  };

  const detach = (id: string) => {
    openDenials.forget(id);
    const way = ways.get(id);
    if (!way) return;
    ways.delete(id);
    secrets.forget(id);
    way.stop.abort();
    way.egress.close();
    way.recorder.flush();
    way.learnt.store();
  };

  const ruled = (wanted: string): SandboxRecord => {
    const record = core.table.resolve(wanted);
    if (record.spec?.network === "filtered" || isOpen(record)) return record;
    throw new WarrenError(
      "unsupported",
      `sandbox ${record.id} has the network ${record.spec?.network ?? "none"}, in which nothing is filtered`,
      { hint: "create it with --network filtered" },
    );
  };

  /** `rules` are those of now, in this turn. */
  const replace = async (
    wanted: string,
    action: "set" | "change",
    rules: (now: NetworkRules) => NetworkRules,
    by: Caller | undefined,
    startsLearning = false,
  ): Promise<SandboxInfo> => {
    const { id } = ruled(wanted);
    if (isOpen(ruled(wanted))) await readyRecord(core, id);
    return await core.mutex.run(id, async () => {
      const record = core.table.require(id);
      if (record.state === "creating" || record.state === "removing") throw notRunning(record);
      const network = rules(record.network ?? {});
      if (isOpen(record)) {
        refuseLearning(network, "open");
        const changed = await openDenials.during(id, () =>
          changeOpenRules(core, record, network, { action, by }),
        );
        return announce(core, "updated", changed);
      }
      checkRules(network);
      if (startsLearning) ways.get(id)?.learnt.clear();
      const updated = core.table.update(id, { network, ...(startsLearning ? { learnt: [] } : {}) });
      auditNetwork(core, id, action, { mode: "filtered", rules: network }, by);
      ways.get(id)?.egress.replace(rulesOf(updated));
      return announce(core, "updated", updated);
    });
  };

  return {
    follow,
    forget: detach,
    refreshSecrets: (record) => ways.get(record.id)?.egress.replaceSecrets(secrets.live(record)),
    state(wanted) {
      const record = core.table.resolve(wanted);
      const rules = record.network ?? {};
      const way = ways.get(record.id);
      const written = [...(rules.allow ?? []), ...(rules.deny ?? [])];
      const used = presetNames.filter((name) => written.includes(`preset:${name}`));
      const learnt = way?.learnt.rules() ?? record.learnt;
      return {
        mode: record.spec?.network ?? "none",
        rules,
        presets: Object.fromEntries(used.map((name) => [name, presets(name)])),
        ...(way?.captures === undefined ? {} : { captures: way.captures }),
        counts: way?.recorder.counts() ?? openDenials.counts(record.id) ?? { allowed: 0, denied: 0 },
        ...(isOpen(record) ? { records: openDenials.records(record.id) } : {}),
        ...(learnt?.length || rules.learn ? { learnt: learnt ?? [] } : {}),
      };
    },
    async set(wanted, rules, by) {
      const parsed = tidy(parseInput(NetworkRules, rules));
      return await replace(wanted, "set", () => parsed, by, parsed.learn === true);
    },
    async change(wanted, input, by) {
      const change = parseInput(NetworkChange, input);
      return await replace(wanted, "change", (now) => changed(now, change), by, change.learn === true);
    },
    async explain(wanted, host, port) {
      if (!Number.isInteger(port) || port < 1 || port > 65_535) {
        throw new WarrenError("invalid_request", "port: a port is 1 to 65535");
      }
      const record = ruled(wanted);
      if (isOpen(record)) {
        const ready = await readyRecord(core, record.id);
        const items = await runtimeOf(core, ready).reachItems(record.id);
        return { host, port, ...explainOpen(host, port, items, ready.network ?? {}) };
      }
      const { allowed, cause, reason, rule, preset } =
        ways.get(record.id)?.egress.explain(host, port) ??
        compilePolicy(rulesOf(record), presets).decide(host, port);
      return {
        host,
        port,
        allowed,
        cause,
        reason,
        ...(rule === undefined ? {} : { rule }),
        ...(preset === undefined ? {} : { preset }),
      };
    },
    denials: async (id, options) =>
      ways.get(id)?.recorder.counts().denied ?? (await openDenials.count(id, options)),
    decisions(wanted) {
      const record = ruled(wanted);
      if (isOpen(record)) return openDenials.decisions(record.id);
      return ways.get(record.id)?.recorder.decisions() ?? [];
    },
    close() {
      openDenials.close();
      for (const id of [...ways.keys()]) detach(id);
    },
  };
}

interface Learnt {
  add(decision: NetworkDecision): void;
  rules(): string[];
  clear(): void;
  /** Writes what is new to the sandbox's record, at once. */
  store(): void;
}

function createLearnt(core: Core, id: string): Learnt {
  const rules = new Set(core.table.get(id)?.learnt ?? []);
  let timer: { cancel(): void } | undefined;
  const store = () => {
    if (!timer) return;
    timer.cancel();
    timer = undefined;
    try {
      if (core.table.get(id)) core.table.update(id, { learnt: [...rules] });
    } catch (error) {
      core.log.error({ err: error, sandbox: id }, "what was learnt of a sandbox's network can't be stored");
    }
  };
  return {
    add(decision) {
      const rule = learntRule(decision);
      if (rule === undefined || rules.has(rule) || rules.size >= MOST_LEARNT) return;
      rules.add(rule);
      timer ??= core.clock.after(STORE_LEARNT_MS, store);
    },
    rules: () => [...rules].sort(),
    clear() {
      rules.clear();
      timer?.cancel();
      timer = undefined;
    },
    store,
  };
}

function changed(now: NetworkRules, change: NetworkChange): NetworkRules {
  const written = (texts: readonly string[] | undefined) => (texts ?? []).map((text) => text.trim());
  const remove = written(change.remove);
  const known = [...written(now.allow), ...written(now.deny)];
  const absent = remove.find((rule) => !known.includes(rule));
  if (absent !== undefined) {
    throw new WarrenError("invalid_request", `remove: there is no rule ${JSON.stringify(absent)}`, {
      hint: known.length === 0 ? "there are no rules" : `there are: ${known.join(", ")}`,
    });
  }
  const kept = (texts: readonly string[] | undefined) =>
    written(texts).filter((rule) => !remove.includes(rule));
  return tidy(
    parseInput(NetworkRules, {
      allow: [...new Set([...kept(now.allow), ...written(change.allow)])],
      deny: [...new Set([...kept(now.deny), ...written(change.deny)])],
      learn: change.learn ?? now.learn,
    }),
  );
}

/** Without what says nothing. */
function tidy({ allow, deny, learn }: NetworkRules): NetworkRules {
  return {
    ...(allow?.length ? { allow } : {}),
    ...(deny?.length ? { deny } : {}),
    ...(learn ? { learn } : {}),
  };
}

function isOpen({ spec }: SandboxRecord): boolean {
  return spec?.network === "open";
}

function rulesOf({ network }: SandboxRecord): EgressRules {
  return { allow: network?.allow ?? [], deny: network?.deny ?? [], learn: network?.learn ?? false };
}
