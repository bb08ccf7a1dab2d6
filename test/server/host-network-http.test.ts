import { expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";
import { serve } from "./serve.ts";

const request = { network_mode: "host" };

it("gives clients over TCP no network of its machine, unless it was told otherwise", async () => {
  await using served = await serve({ apiKeys: ["k"] });
  const remote = createNodeClient({ url: served.url, apiKey: "k" });
  await expect(remote.create(request)).rejects.toMatchObject({
    code: "forbidden",
    hint: expect.stringContaining("--allow-host-network"),
  });
  expect(await remote.create({ network_mode: "open" })).toMatchObject({ id: "box" });
  const local = createNodeClient({ url: `unix:${served.socketPath}` });
  expect(await local.create(request)).toMatchObject({ id: "box" });
  await using open = await serve({ apiKeys: ["k"], allowHostNetwork: true });
  expect(await createNodeClient({ url: open.url, apiKey: "k" }).create(request)).toMatchObject({ id: "box" });
});
