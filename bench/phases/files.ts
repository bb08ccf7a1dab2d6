import { timed } from "../results.ts";
import { inRounds, type Phase, withBoxes } from "./phase.ts";

/** A small file, which shows what a call costs, and a large one, which shows what a byte costs. */
export const filesPhase: Phase = (context) =>
  withBoxes(context, async (boxes) => {
    const { recorder, options } = context;
    const small = new Uint8Array(1024).fill(7);
    const large = new Uint8Array(options.largeBytes).fill(7);
    const largeName = `${Math.round(options.largeBytes / 2 ** 20)} MiB`;
    const checked = (name: string, expected: Uint8Array, bytes: number): void => {
      if (bytes !== expected.byteLength)
        throw new Error(`${name} read ${bytes} of ${expected.byteLength} bytes`);
    };

    await inRounds(context, { count: options.rounds * 3, warmUp: 5 }, async (subject, isWarm) => {
      const box = boxes.get(subject);
      if (!box) return;
      const up = await timed(() => box.write("/tmp/small", small));
      const down = await timed(async () => checked(subject.name, small, await box.read("/tmp/small")));
      if (!isWarm) return;
      recorder.add("write 1 KiB", "ms", subject.name, up);
      recorder.add("read 1 KiB", "ms", subject.name, down);
    });
    const count = Math.max(1, Math.ceil(options.rounds / 8));
    await inRounds(context, { count, warmUp: 1 }, async (subject, isWarm) => {
      const box = boxes.get(subject);
      if (!box) return;
      const up = await timed(() => box.write("/tmp/large", large));
      const down = await timed(async () => checked(subject.name, large, await box.read("/tmp/large")));
      if (!isWarm) return;
      const rate = (ms: number): number => options.largeBytes / 1e6 / (ms / 1000);
      recorder.add(`write ${largeName}`, "MB/s", subject.name, rate(up));
      recorder.add(`read ${largeName}`, "MB/s", subject.name, rate(down));
    });
  });
