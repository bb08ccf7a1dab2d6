import { once } from "node:events";
import { expect, it } from "vitest";
import { openConnection } from "../../../src/runtimes/containers/endpoint.ts";

const connect = (...argv: [string, ...string[]]) => openConnection({ kind: "command", argv });

it("carries bytes both ways, and ends each way by itself", async () => {
  const stream = await connect("sh", "-c", "cat; echo end");
  stream.end("hello ");
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part as Buffer);
  expect(Buffer.concat(parts).toString()).toBe("hello end\n");
});

it("closes in silence when nobody wants it any more", async () => {
  const stream = await connect("cat");
  const errors: unknown[] = [];
  stream.on("error", (error) => errors.push(error));
  stream.write("x");
  await once(stream, "data");
  stream.destroy();
  await once(stream, "close");
  await new Promise((resolve) => setImmediate(resolve));
  expect(errors).toEqual([]);
});

it("fails in the program's own words, though it took nothing of what it was sent", async () => {
  const stream = await connect("sh", "-c", "exec <&-; echo no such machine >&2; exit 3");
  stream.write(Buffer.alloc(1 << 20));
  stream.resume();
  const [error] = await once(stream, "error").catch((cause: unknown) => [cause]);
  expect(error).toMatchObject({ code: "runtime_unavailable", message: "sh ended (3): no such machine" });
});
