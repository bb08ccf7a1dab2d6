import { rename } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import {
  type Behaviour,
  flood,
  frame,
  type Impostor,
  replies,
  requests,
  startImpostor,
  stat,
  str,
  u32,
} from "./support/impostor.ts";
import { type Lab, openLab, outputOf } from "./support/lab.ts";

/** What any call to an engine whose guest was replaced may take, in milliseconds: three times what a file call waits. */
const BOUND_MS = 30_000;

let lab: Lab;
let neighbour: string;

beforeAll(async () => {
  lab = await openLab({ programs: ["fds"] });
  neighbour = await lab.sandbox();
});
afterAll(() => lab?.[Symbol.asyncDispose]());

/** A sandbox whose guest has been replaced: another server listens where the guest's socket was. */
async function replaceGuest(behaviour: Behaviour): Promise<{ id: string; impostor: Impostor }> {
  const id = await lab.sandbox();
  const path = join(lab.stateDir, "oci", "sandboxes", id, "guest.sock");
  await rename(path, `${path}.real`);
  return { id, impostor: await startImpostor(path, behaviour) };
}

const behaviours: Record<string, Behaviour> = {
  "never answers": () => {},
  "closes at once": (socket) => void socket.end(),
  "sends random bytes": (socket) => flood(socket, Buffer.alloc(65_536, 0xa5)),
  "tells a length of 4 GiB": (socket) => void socket.write(frame(replies.stat, Buffer.alloc(8), 0xffff_ffff)),
  "floods with output": (socket, { type }) => {
    if (type === requests.spawn) socket.write(frame(replies.started, u32(2)));
    if (type === requests.read) socket.write(frame(replies.stat, stat()));
    flood(socket, frame(type === requests.read ? replies.data : replies.stdout, Buffer.alloc(131_072)));
  },
  "starts commands that never end": (socket, { type }) => {
    if (type === requests.spawn) socket.write(frame(replies.started, u32(2)));
  },
  "says OK to everything": (socket) => flood(socket, frame(replies.ok)),
  "answers with an error in another language": (socket) => {
    socket.write(frame(replies.error, Buffer.concat([u32(12_345), str("\u001b[2J\nHTTP/1.1 200 OK\r\n")])));
  },
};

describe.concurrent.each(Object.entries(behaviours))("a replaced guest that %s", (_, behaviour) => {
  it(
    "gets every call an error in time, harms no other sandbox, and is removed like any",
    async () => {
      const { id, impostor } = await replaceGuest(behaviour);
      const { files } = lab.engine;
      const calls: (() => Promise<unknown>)[] = [
        () => lab.engine.exec(id, { cmd: ["x"], timeout: 0.5, max_output: 65_536 }),
        () => lab.engine.exec(id, { cmd: ["x"] }, { signal: AbortSignal.timeout(500) }),
        () => lab.engine.exec(id, { cmd: ["x"], stdin: "x".repeat(1 << 20), timeout: 0.5 }),
        async () => {
          let bytes = 0;
          const { body } = await files.read(id, "/x", { signal: AbortSignal.timeout(3000) });
          for await (const chunk of body) {
            bytes += chunk.length;
            if (bytes > 1 << 22) break;
          }
        },
        () => files.write(id, "/x", Buffer.alloc(1 << 20), { signal: AbortSignal.timeout(3000) }),
        () => files.stat(id, "/x"),
        () => files.list(id, "/x"),
        () => files.mkdir(id, "/x"),
        () => files.rename(id, "/x", "/y"),
        () => files.chmod(id, "/x", 0o644),
      ];
      const started = performance.now();
      const results = Promise.allSettled(calls.map((call) => call()));
      outputOf(await lab.attack(neighbour, "fds"));
      for (const result of await results) {
        if (result.status === "fulfilled") continue;
        expect(result.reason).toBeInstanceOf(WarrenError);
        expect((result.reason as WarrenError).code).not.toBe("internal");
        expect((result.reason as WarrenError).message).not.toMatch(/\p{Cc}/u);
      }
      expect(performance.now() - started).toBeLessThan(BOUND_MS);
      outputOf(await lab.attack(neighbour, "fds"));
      expect(["running", "error", "stopped"]).toContain((await lab.engine.get(id)).status);
      const removing = performance.now();
      await lab.engine.remove(id);
      expect(performance.now() - removing).toBeLessThan(BOUND_MS);
      await impostor[Symbol.asyncDispose]();
    },
    3 * BOUND_MS,
  );
});

it(
  "a guest that was replaced and never answers is stopped in time, and its sandbox starts again whole",
  async () => {
    const { id, impostor } = await replaceGuest(() => {});
    const started = performance.now();
    expect((await lab.engine.stop(id, { timeoutMs: 200 })).status).toBe("stopped");
    expect(performance.now() - started).toBeLessThan(BOUND_MS);
    await impostor[Symbol.asyncDispose]();
    await lab.engine.start(id);
    outputOf(await lab.attack(id, "fds"));
    await lab.engine.remove(id);
  },
  2 * BOUND_MS,
);
