import type { BenchOptions } from "../bench.ts";
import type { Recorder } from "../results.ts";
import type { Box, Subject } from "../subject.ts";
import type { WarrenServer } from "../subjects/warren-server.ts";

export interface PhaseContext {
  name: string;
  options: BenchOptions;
  recorder: Recorder;
  /** A directory that goes at the end. */
  scratch: string;
  /** Warren on crun. */
  server: WarrenServer;
  /** Those that still take part. */
  subjects: readonly Subject[];
  /** The part's time has run out, or the whole run is to end. */
  isOver(): boolean;
  drop(subject: Subject, why: unknown): void;
}

/** One part of the run. */
export type Phase = (context: PhaseContext) => Promise<void>;

/** How many times more rounds the subjects that make a box in milliseconds have than the slow ones. */
const SLOW_EVERY = 4;

/**
 * Rounds in which the subjects take turns; the first `warmUp` ones are not for recording. Notes it when time runs out. A
 * subject that throws is dropped.
 */
export async function inRounds(
  context: PhaseContext,
  { count, warmUp }: { count: number; warmUp: number },
  turn: (subject: Subject, isWarm: boolean) => Promise<void>,
): Promise<void> {
  for (let round = -warmUp; round < count; round++) {
    if (context.isOver()) {
      context.recorder.note(`${context.name}: ended after ${Math.max(round, 0)} of ${count} rounds`);
      return;
    }
    for (const subject of [...context.subjects]) {
      if (subject.isSlow && round > 0 && round % SLOW_EVERY !== 0) continue;
      await turn(subject, round >= 0).catch((error: unknown) => context.drop(subject, error));
    }
  }
}

/** Does something with one box of each subject, and destroys them. */
export async function withBoxes(
  context: PhaseContext,
  work: (boxes: Map<Subject, Box>) => Promise<void>,
): Promise<void> {
  const boxes = new Map<Subject, Box>();
  try {
    for (const subject of [...context.subjects]) {
      await subject.create().then(
        (box) => boxes.set(subject, box),
        (error: unknown) => context.drop(subject, error),
      );
    }
    await work(boxes);
  } finally {
    for (const [subject, box] of boxes) {
      await box.destroy().catch((error: unknown) => context.drop(subject, error));
    }
  }
}
