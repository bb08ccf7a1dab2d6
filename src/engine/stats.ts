import { WarrenError } from "../contracts/errors.ts";
import type { RuntimeStats } from "../contracts/runtime.ts";
import type { SandboxStats, SystemStats } from "../contracts/sandbox.ts";
import { asWarrenError, type Core, notRunning, readyRecord, runtimeOf } from "./core.ts";
import type { SandboxRecord } from "./record.ts";

/** Shorter than this and the scheduler's ticks drown what is measured. */
const SHORTEST_SPAN_MS = 100;
/** Older than this and the figure says nothing of now. */
const OLDEST_READING_MS = 60_000;

interface Reading {
  /** Monotonic milliseconds. */
  at: number;
  cpuTotalNs: number;
  /** Which start of the sandbox it belongs to. */
  startedAt: number | undefined;
}

export interface StatsReader {
  sandbox(wanted: string): Promise<SandboxStats>;
  system(): SystemStats;
}

export function createStatsReader(core: Core): StatsReader {
  const readings = new Map<string, Reading>();
  core.events.subscribe(({ type, sandbox }) => {
    if (type === "removed" || type === "stopped") readings.delete(sandbox.id);
  });

  return {
    async sandbox(wanted) {
      const record = await readyRecord(core, wanted);
      // Of a paused one as well: the numbers are the kernel's.
      if (!isLive(record)) throw notRunning(record);
      const runtime = runtimeOf(core, record);
      const read = async (): Promise<{ stats: RuntimeStats; reading: Reading }> => {
        const stats = await runtime.stats(record.id).catch((cause: unknown) => {
          throw explain(cause, core, record.id);
        });
        const reading = { at: performance.now(), cpuTotalNs: stats.cpuTotalNs, startedAt: record.startedAt };
        return { stats, reading };
      };

      let { stats, reading } = await read();
      let before = readings.get(record.id);
      const age = before === undefined ? 0 : reading.at - before.at;
      if (
        before === undefined ||
        before.startedAt !== reading.startedAt ||
        age < SHORTEST_SPAN_MS ||
        age > OLDEST_READING_MS
      ) {
        before = reading;
        await new Promise((resolve) => setTimeout(resolve, SHORTEST_SPAN_MS));
        ({ stats, reading } = await read());
      }
      if (core.table.get(record.id)?.startedAt === record.startedAt) readings.set(record.id, reading);

      const { cpuTotalNs, oomKills: _, ...rest } = stats;
      const spanNs = (reading.at - before.at) * 1e6;
      return {
        ...rest,
        // A process that ended between the readings may take its time with it.
        cpu_percent: Math.max(0, ((cpuTotalNs - before.cpuTotalNs) / spanNs) * 100),
        memory_percent: stats.memory_limit > 0 ? (stats.memory_usage / stats.memory_limit) * 100 : 0,
        timestamp: new Date(core.clock.now()).toISOString(),
      };
    },

    system() {
      const records = core.table.all();
      return {
        total_sandboxes: records.length,
        running_sandboxes: records.filter((record) => record.state === "running").length,
        stopped_sandboxes: records.filter((record) => record.state === "stopped").length,
        total_snapshots: core.snapshots.all().length,
      };
    },
  };
}

function isLive(record: SandboxRecord): boolean {
  return record.state === "running" || record.state === "paused";
}

function explain(cause: unknown, core: Core, id: string): WarrenError {
  const record = core.table.get(id);
  if (!record || !isLive(record)) {
    return record ? notRunning(record) : new WarrenError("sandbox_wrong_state", `sandbox ${id} has ended`);
  }
  return asWarrenError(cause, `the statistics of sandbox ${id} can't be read`);
}
