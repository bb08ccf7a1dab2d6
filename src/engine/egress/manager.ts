import { setTimeout as sleep } from "node:timers/promises";
import { WarrenError } from "../../contracts/errors.ts";
import type { NetworkDecision, NetworkRules } from "../../contracts/network.ts";
import { NetworkRules as NetworkRulesSchema } from "../../contracts/network.ts";
import type { SandboxInfo } from "../../contracts/sandbox.ts";
import { parseInput } from "../../lib/parse.ts";
import { announce, type Core, guestOf, notRunning } from "../core.ts";
import { checkRules } from "../network.ts";
import type { SandboxRecord } from "../record.ts";
import { createEgress, type Egress } from "./egress.ts";
import { compilePolicy } from "./policy.ts";
import { createResolver, type Resolve } from "./resolver.ts";

/** Connections that wait inside each sandbox for a program that wants out: so many can come at once without waiting. */
const WAITING = 4;
/** Until a guest that could not be asked is asked again. */
const FIRST_RETRY_MS = 50;
const MAX_RETRY_MS = 2_000;
/** Decisions of each sandbox that are remembered. */
const MOST_DECISIONS = 200;

/** The ways out of all sandboxes with filtered network that run. */
export interface EgressManager {
  /** Opens the way out of a sandbox that has just come to run, or was found running. */
  follow(record: SandboxRecord): void;
  /** Closes it. */
  forget(id: string): void;
  set(wanted: string, rules: NetworkRules): Promise<SandboxInfo>;
  explain(wanted: string, host: string, port: number): NetworkDecision;
  /** The last ones, the oldest first. */
  decisions(wanted: string): NetworkDecision[];
  close(): void;
}

interface Way {
  egress: Egress;
  stop: AbortController;
  decisions: NetworkDecision[];
}

export function createEgressManager(core: Core, resolve: Resolve = createResolver()): EgressManager {
  const ways = new Map<string, Way>();

  const attach = (record: SandboxRecord) => {
    if (record.spec?.network !== "filtered" || ways.has(record.id)) return;
    const decisions: NetworkDecision[] = [];
    const egress = createEgress({
      rules: rulesOf(record),
      resolve,
      onDecision(event) {
        decisions.push({ ...event, at: new Date(core.clock.now()).toISOString() });
        if (decisions.length > MOST_DECISIONS) decisions.shift();
        if (!event.allowed)
          core.log.info({ sandbox: record.id, ...event }, "a sandbox was denied a connection");
      },
    });
    const way = { egress, stop: new AbortController(), decisions };
    ways.set(record.id, way);
    for (let i = 0; i < WAITING; i++) void acceptAll(record, way);
  };

  const acceptAll = async (record: SandboxRecord, { egress, stop }: Way) => {
    const guest = guestOf(core, record);
    for (let delay = FIRST_RETRY_MS; !stop.signal.aborted; ) {
      try {
        const { socket, target } = await guest.accept(stop.signal);
        if (target) egress.serveDirect(socket, target.host, target.port);
        else egress.serve(socket);
        delay = FIRST_RETRY_MS;
      } catch {
        // Its guest is gone, paused or busy; who supervises it finds out, and ends this when the sandbox has ended.
        await sleep(delay, undefined, { signal: stop.signal }).catch(() => {});
        delay = Math.min(delay * 2, MAX_RETRY_MS);
      }
    }
  };

  const detach = (id: string) => {
    const way = ways.get(id);
    if (!way) return;
    ways.delete(id);
    way.stop.abort();
    way.egress.close();
  };

  const filtered = (wanted: string): SandboxRecord => {
    const record = core.table.resolve(wanted);
    if (record.spec?.network === "filtered") return record;
    throw new WarrenError(
      "unsupported",
      `sandbox ${record.id} has the network ${record.spec?.network ?? "none"}, in which nothing is filtered`,
      { hint: "create it with --network filtered" },
    );
  };

  return {
    follow: attach,
    forget: detach,
    async set(wanted, rules) {
      const parsed = parseInput(NetworkRulesSchema, rules);
      checkRules(parsed);
      const { id } = filtered(wanted);
      return core.mutex.run(id, async () => {
        const record = core.table.require(id);
        if (record.state === "creating" || record.state === "removing") throw notRunning(record);
        const updated = core.table.update(id, { network: parsed });
        ways.get(id)?.egress.replace(rulesOf(updated));
        return announce(core, "updated", updated);
      });
    },
    explain(wanted, host, port) {
      if (!Number.isInteger(port) || port < 1 || port > 65_535) {
        throw new WarrenError("invalid_request", "port: a port is 1 to 65535");
      }
      const { allowed, reason, rule } = compilePolicy(rulesOf(filtered(wanted))).decide(host, port);
      return { host, port, allowed, reason, ...(rule === undefined ? {} : { rule }) };
    },
    decisions: (wanted) => [...(ways.get(filtered(wanted).id)?.decisions ?? [])],
    close() {
      for (const id of [...ways.keys()]) detach(id);
    },
  };
}

function rulesOf({ network }: SandboxRecord) {
  return { allow: network?.allow ?? [], deny: network?.deny ?? [] };
}
