import { timed } from "../results.ts";
import { inRounds, type Phase, withBoxes } from "./phase.ts";

/** `/bin/true` in a box that is there. */
export const execPhase: Phase = (context) =>
  withBoxes(context, async (boxes) => {
    const { recorder, options } = context;
    await inRounds(context, { count: options.rounds * 3, warmUp: 5 }, async (subject, isWarm) => {
      const ms = await timed(async () => boxes.get(subject)?.exec(["/bin/true"]));
      if (isWarm) recorder.add("exec /bin/true", "ms", subject.name, ms);
    });
  });
