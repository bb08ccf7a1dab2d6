import { timed } from "../results.ts";
import type { Box } from "../subject.ts";
import { startHealthProbe } from "./health-probe.ts";
import { inRounds, type Phase } from "./phase.ts";

const WARREN = /^Warren .*\(crun\)$/;

/** All creates at once, and what the engine's event loop says to it. */
export const burstPhase: Phase = async (context) => {
  const { recorder, options, server } = context;
  const what = `burst of ${options.burst} creates`;
  await inRounds(
    context,
    { count: Math.max(1, Math.ceil(options.rounds / 25)), warmUp: 0 },
    async (subject) => {
      const watched = WARREN.test(subject.name);
      await using probe = watched ? await startHealthProbe(server.url()) : undefined;
      if (watched) server.startLagMonitor();
      const boxes: Box[] = [];
      const failures: unknown[] = [];
      const whole = await timed(async () => {
        const creates = Array.from({ length: options.burst }, async () => {
          await subject.create().then(
            (box) => boxes.push(box),
            (error: unknown) => failures.push(error),
          );
        });
        await Promise.all(creates);
      });
      if (watched) {
        const { p50, p99, max } = await server.lag();
        recorder.add("event-loop lag in a burst, p50", "ms", subject.name, p50);
        recorder.add("event-loop lag in a burst, p99", "ms", subject.name, p99);
        recorder.add("event-loop lag in a burst, longest", "ms", subject.name, max);
      }
      for (const ms of (await probe?.stop()) ?? []) recorder.add("health in a burst", "ms", subject.name, ms);
      if (failures.length === 0) recorder.add(what, "ms", subject.name, whole);
      else
        recorder.note(`${what}: ${subject.name}: ${failures.length} failed, first: ${String(failures[0])}`);
      recorder.add(`failures in a ${what}`, "number", subject.name, failures.length);
      const gone = await timed(() => Promise.all(boxes.map((box) => box.destroy())));
      if (boxes.length === options.burst)
        recorder.add(`destroy of ${options.burst} at once`, "ms", subject.name, gone);
    },
  );
};
