import { expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";
import { serve } from "./serve.ts";

it("lets clients of its socket alone use an SSH agent of its machine", async () => {
  const request = { ssh_agent: { socket: "/run/agent.sock" } };
  await using served = await serve({ apiKeys: ["k"] });
  const remote = createNodeClient({ url: served.url, apiKey: "k" });
  await expect(remote.create(request)).rejects.toMatchObject({ code: "forbidden" });
  const local = createNodeClient({ url: `unix:${served.socketPath}` });
  expect(await local.create(request)).toMatchObject({ id: "box" });
});
