import { expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";
import { serve } from "./serve.ts";

const request = { storage: { binds: [{ source: "/", mount_path: "/host" }] } };

it("mounts directories of its machine for clients of its socket alone, unless it was told otherwise", async () => {
  await using served = await serve({ apiKeys: ["k"] });
  const remote = createNodeClient({ url: served.url, apiKey: "k" });
  await expect(remote.create(request)).rejects.toMatchObject({
    code: "forbidden",
    hint: expect.stringContaining("--allow-binds"),
  });
  expect(await remote.create({ storage: { binds: [] } })).toMatchObject({ id: "box" });
  const local = createNodeClient({ url: `unix:${served.socketPath}` });
  expect(await local.create(request)).toMatchObject({ id: "box" });
  await using open = await serve({ apiKeys: ["k"], allowBinds: true });
  expect(await createNodeClient({ url: open.url, apiKey: "k" }).create(request)).toMatchObject({ id: "box" });
});
