import fc from "fast-check";
import { expect, it } from "vitest";
import { type ExecFrame, FrameLog, FrameTally, frameCost } from "../../src/contracts/exec-frames.ts";

/** What may happen between two sides that are joined by one connection after another. */
const step = fc.record({
  kind: fc.oneof(
    { weight: 4, arbitrary: fc.constant("send" as const) },
    { weight: 6, arbitrary: fc.constantFrom("arrive", "finish", "hear" as const) },
    { weight: 1, arbitrary: fc.constant("cut" as const) },
  ),
  bytes: fc.nat({ max: 40_000 }),
});

it("brings every frame once and in order, whatever is lost with connections, and forgets only what is done with", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const log = new FrameLog();
      const tally = new FrameTally();
      const sent: ExecFrame[] = [];
      let received = 0;
      let finished = 0;
      let acknowledged = 0;
      /** On their way, in each direction; lost with the connection. */
      let frames: ExecFrame[] = [];
      let acks: number[] = [];

      const send = (bytes: number) => {
        const frame = `${sent.length} `.padEnd(bytes);
        sent.push(frame);
        log.append(frame);
        frames.push(frame);
      };
      const arrive = () => {
        const frame = frames.shift();
        if (frame === undefined) return;
        if (frame !== sent[received]) throw new Error(`frame ${received} came as ${frame.slice(0, 8)}`);
        tally.receive();
        received += 1;
      };
      const finish = () => {
        if (finished === received) return;
        const frame = sent[finished] ?? "";
        finished += 1;
        if (tally.finish(frameCost(frame))) acks.push(tally.done);
      };
      const hear = () => {
        const count = acks.shift();
        if (count === undefined) return;
        log.acknowledge(count);
        acknowledged = count;
      };
      const cut = () => {
        frames = [...log.from(tally.received)];
        acks = [tally.done];
      };
      const isRight = () => {
        const kept = sent.slice(acknowledged).reduce((sum, frame) => sum + frameCost(frame), 0);
        return (
          log.cost === kept &&
          log.count === sent.length &&
          acknowledged <= finished &&
          tally.received === received
        );
      };

      const moves = { arrive, finish, hear, cut };
      for (const { kind, bytes } of steps) {
        if (kind === "send") send(bytes);
        else moves[kind]();
        if (!isRight()) return false;
      }
      // With a connection that holds, all arrives, and nothing stays in memory.
      cut();
      while (frames.length > 0) arrive();
      while (finished < received) finish();
      while (acks.length > 0) hear();
      return received === sent.length && log.cost === 0;
    }),
  );
});

/** What a frame in JSON can give for a count: its shape is checked before. */
const number = fc.oneof(fc.integer({ min: -3, max: 25 }), fc.integer(), fc.double());

it("refuses counts that can't be, and stays as it is", () => {
  fc.assert(
    fc.property(fc.nat({ max: 20 }), fc.nat({ max: 20 }), number, (count, before, claimed) => {
      const log = new FrameLog();
      for (let index = 0; index < count; index++) log.append(`frame ${index}`);
      const first = Math.min(before, count);
      log.acknowledge(first);
      const cost = log.cost;
      const isPossible = Number.isInteger(claimed) && claimed >= first && claimed <= count;
      const both = [() => log.from(claimed), () => log.acknowledge(claimed)];
      for (const claim of isPossible ? [] : both) {
        expect(claim).toThrow(expect.objectContaining({ code: "invalid_request" }));
      }
      if (isPossible) expect(log.from(claimed)).toHaveLength(count - claimed);
      expect(log.cost).toBe(cost);
      expect(log.count).toBe(count);
    }),
  );
});

it("acknowledges when enough is done with, or nothing else waits", () => {
  const tally = new FrameTally();
  for (let count = 0; count < 3; count++) tally.receive();
  expect(tally.finish(1)).toBe(false);
  expect(tally.finish(64 * 1024)).toBe(true);
  expect(tally.finish(1)).toBe(true);
  expect(tally.done).toBe(3);
});
