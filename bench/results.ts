import { performance } from "node:perf_hooks";

/** One run: every sample, in the order in which it was taken. What a results file holds. */
export interface Results {
  date: string;
  commit: string;
  machine: {
    kernel: string;
    cpu: string;
    cores: number;
    memoryMiB: number;
    node: string;
    /** Load average of the last minute when the run began: what others did on this machine. */
    load: number;
    versions: string[];
  };
  options: { rounds: number; burst: number; idle: number };
  /** What was not measured, or not in full, and why. */
  notes: string[];
  measures: Measure[];
}

export interface Measure {
  what: string;
  unit: "ms" | "MB/s" | "MiB" | "KiB" | "per second" | "number";
  /** By subject. */
  samples: Record<string, number[]>;
}

export interface Summary {
  n: number;
  p50: number;
  p99: number;
}

/** Nearest-rank percentiles, p99 towards the worse end. With fewer than 100 samples p99 is the worst one. */
export function summarise({ unit }: Pick<Measure, "unit">, samples: readonly number[]): Summary {
  const isRate = unit === "MB/s" || unit === "per second";
  const worstLast = [...samples].sort((a, b) => (isRate ? b - a : a - b));
  const at = (q: number): number => worstLast[Math.max(0, Math.ceil(q * worstLast.length) - 1)] ?? Number.NaN;
  return { n: worstLast.length, p50: at(0.5), p99: at(0.99) };
}

/** Collects the samples of a run. */
export class Recorder {
  readonly measures: Measure[] = [];
  readonly notes: string[] = [];

  add(what: string, unit: Measure["unit"], who: string, value: number): void {
    let measure = this.measures.find((one) => one.what === what);
    if (!measure) {
      measure = { what, unit, samples: {} };
      this.measures.push(measure);
    }
    measure.samples[who] ??= [];
    // A thousandth is far below what a run can tell, and keeps the file small.
    measure.samples[who].push(Math.round(value * 1000) / 1000);
  }

  note(text: string): void {
    this.notes.push(text);
    process.stderr.write(`note: ${text}\n`);
  }
}

/** Milliseconds that `task` takes, by the monotonic clock. */
export async function timed(task: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await task();
  return performance.now() - start;
}
