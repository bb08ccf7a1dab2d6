import { readFile } from "node:fs/promises";
import { timed } from "../results.ts";
import type { Box, Subject } from "../subject.ts";
import type { Phase, PhaseContext } from "./phase.ts";

/** Creates at a time on the way up, and removals on the way down: enough to keep two processors busy. */
const AT_ONCE = 4;

/** Many boxes that do nothing: what each costs in memory, and what that does to the ones in use. */
export const idlePhase: Phase = async (context) => {
  if (context.options.idle === 0) return;
  for (const who of [/^Warren HTTP \(crun\)$/, /^crun \(bare\)$/]) {
    const subject = context.subjects.find(({ name }) => who.test(name));
    if (subject) await idle(context, subject).catch((error: unknown) => context.drop(subject, error));
  }
};

async function idle({ recorder, options, isOver }: PhaseContext, subject: Subject): Promise<void> {
  const { idle: wanted, rounds } = options;
  const boxes: Box[] = [];
  try {
    boxes.push(await subject.create());
    await execs((ms) => recorder.add("exec with 1 sandbox", "ms", subject.name, ms));
    const before = await availableMiB();
    while (boxes.length < wanted) {
      if (isOver()) {
        recorder.note(`idle: ${subject.name}: only ${boxes.length} of ${wanted} sandboxes in its time`);
        break;
      }
      const group = Math.min(AT_ONCE, wanted - boxes.length);
      const made = await Promise.allSettled(Array.from({ length: group }, () => subject.create()));
      for (const one of made) if (one.status === "fulfilled") boxes.push(one.value);
      const failed = made.find((one) => one.status === "rejected");
      if (failed) throw failed.reason;
    }
    const used = before - (await availableMiB());
    recorder.add(`memory of ${boxes.length} idle sandboxes, all`, "MiB", subject.name, used);
    recorder.add(
      `memory of ${boxes.length} idle sandboxes, each`,
      "MiB",
      subject.name,
      used / (boxes.length - 1),
    );
    await execs((ms) => recorder.add(`exec with ${boxes.length} sandboxes`, "ms", subject.name, ms));
    for (let i = 0; i < Math.min(rounds, 20); i++) {
      let box: Box | undefined;
      const ms = await timed(async () => {
        box = await subject.create();
      });
      recorder.add(`create to first stdout with ${boxes.length} sandboxes`, "ms", subject.name, ms);
      await box?.destroy();
    }
  } finally {
    const work = boxes.values();
    const worker = async () => {
      for (const box of work) await box.destroy();
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  }

  async function execs(record: (ms: number) => void): Promise<void> {
    for (let round = 0; round < rounds * 2; round++) {
      const box = boxes[(round * 37) % boxes.length];
      if (box) record(await timed(() => box.exec(["/bin/true"])));
    }
  }
}

async function availableMiB(): Promise<number> {
  return Number(/MemAvailable:\s+(\d+)/.exec(await readFile("/proc/meminfo", "utf8"))?.[1]) / 1024;
}
