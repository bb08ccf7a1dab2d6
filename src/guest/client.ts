import { encodeFrame } from "./encoder.ts";
import { replies, requests } from "./frames.ts";
import { waitMain } from "./main-command.ts";
import { readPayload } from "./reader.ts";
import { ask } from "./simple.ts";
import { spawn } from "./spawn.ts";
import type { CreateGuestClient, GuestClient } from "./types.ts";

const t = { answerTimeoutMs: 10000 };
export const createGuestClient: CreateGuestClient = (connect) =>
  ({
    async hello() {
      const r = readPayload(
        await ask(connect, {
          ...t,
          frame: encodeFrame(requests.hello).finish(),
          reply: replies.info,
          subject: "hello",
        }),
      );
      const protocol = r.u32();
      r.u32();
      return { protocol, version: r.bytes().toString() };
    },
    spawn: (request, options) => spawn(connect, request, { ...options, answerTimeoutMs: 30000 }),
    waitMain: (options) => waitMain(connect, { ...options, ...t }),
    async shutdown(graceMs: number) {
      await ask(connect, {
        ...t,
        frame: encodeFrame(requests.shutdown).u32(graceMs).finish(),
        reply: replies.ok,
        subject: "shutdown",
      });
    },
  }) as GuestClient;
