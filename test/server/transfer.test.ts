import { expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";
import type { FileInfo } from "../../src/contracts/files.ts";
import { serve } from "./serve.ts";

const MIB = 1024 * 1024;
const SIZE = 512 * MIB;

/** Far below the size of a file, far above what sockets and garbage hold. */
const MAX_GROWTH = 160 * MIB;

it("large files pass through in both directions without growing memory", async () => {
  await using served = await serve();
  const info: FileInfo = {
    name: "large",
    path: "/large",
    size: SIZE,
    mode: "-rw-r--r--",
    mod_time: "2024-05-06T07:08:09Z",
    is_dir: false,
    type: "file",
    permissions: 0o644,
    uid: 0,
    gid: 0,
  };
  const before = process.memoryUsage().rss;
  let highest = 0;
  async function* zeros(): AsyncGenerator<Uint8Array> {
    const chunk = new Uint8Array(128 * 1024);
    for (let sent = 0; sent < SIZE; sent += chunk.length) {
      if (sent % (8 * MIB) === 0) highest = Math.max(highest, process.memoryUsage().rss);
      yield chunk;
    }
  }
  served.api.files.read = async () => ({ info, body: zeros() });
  served.api.files.write = async (_id, _path, body) => {
    let bytes = 0;
    for await (const chunk of body as AsyncIterable<Uint8Array>) bytes += chunk.length;
    return { bytes };
  };
  const client = createNodeClient({ url: served.url });
  expect(await client.files.write("box", "/large", zeros())).toEqual({ bytes: SIZE });
  let read = 0;
  for await (const chunk of (await client.files.read("box", "/large")).body) read += chunk.length;
  expect(read).toBe(SIZE);
  expect(highest - before).toBeLessThan(MAX_GROWTH);
});
