import { timed } from "../results.ts";
import type { Box } from "../subject.ts";
import { inRounds, type Phase } from "./phase.ts";

/** One box at a time: made, until it has said something, and destroyed. */
export const lifecyclePhase: Phase = async (context) => {
  const { recorder, options } = context;
  await inRounds(context, { count: options.rounds, warmUp: 2 }, async (subject, isWarm) => {
    let box: Box | undefined;
    const create = await timed(async () => {
      box = await subject.create();
    });
    const destroy = await timed(async () => box?.destroy());
    if (!isWarm) return;
    recorder.add("create to first stdout", "ms", subject.name, create);
    recorder.add("destroy", "ms", subject.name, destroy);
  });
};
