import { expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";
import { serve } from "./serve.ts";

it("publishes on other addresses than loopback for clients over TCP only where the server lets them", async () => {
  await using served = await serve({ publishAddresses: ["0.0.0.0"] });
  const overTcp = createNodeClient({ url: served.url });
  const own = createNodeClient({ url: `unix:${served.socketPath}` });
  const port = (address?: string) => ({ sandbox_port: 80, ...(address === undefined ? {} : { address }) });
  for (const address of [undefined, "127.0.0.1", "127.9.9.9", "::1", "localhost", "", "0.0.0.0"]) {
    await expect(overTcp.ports.add("box", port(address)), String(address)).resolves.toMatchObject({
      state: "open",
    });
    await expect(overTcp.create({ ports: [port(address)] })).resolves.toMatchObject({ id: "box" });
  }
  for (const address of [
    "192.0.2.1",
    "::",
    "0.0.0.0 ",
    "0",
    "127.0.0.1.example",
    "::ffff:192.0.2.1",
    "0x7f.1",
  ]) {
    const refused = { code: "forbidden", hint: expect.stringContaining("--publish-address") };
    await expect(overTcp.ports.add("box", port(address)), address).rejects.toMatchObject(refused);
    await expect(overTcp.create({ ports: [port(), port(address)] }), address).rejects.toMatchObject(refused);
    await expect(own.ports.add("box", port(address))).resolves.toMatchObject({ address });
  }
});
