import { describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { createNodeClient } from "../../src/client/node/index.ts";
import { PREFIX } from "../../src/server/route.ts";
import { routes } from "../../src/server/routes.ts";
import { rawExchange, upgradeRequest } from "./raw.ts";
import { serve } from "./serve.ts";

const KEY = "correct-horse-battery-staple";
const STREAM = `${PREFIX}/sandboxes/box/exec/stream`;

describe("API keys", () => {
  it.each(routes.map((route) => ({ ...route, name: `${route.method} ${route.path}` })))(
    "$name needs a key unless it is open",
    async ({ method, path, ...route }) => {
      await using served = await serve({ apiKeys: ["another", KEY] });
      const url = served.url + PREFIX + path.replace(":id", "box").replace(":port", "80");
      const isOpen = "open" in route;
      for (const headers of [{}, { "x-api-key": "wrong" }, { authorization: "Bearer wrong" }]) {
        const response = await fetch(url, { method, headers });
        expect(response.status).toBe(isOpen ? 200 : 401);
        expect(response.headers.get("content-type")).toBe("application/json");
        const missing = Object.keys(headers).length === 0;
        if (!isOpen) {
          expect(await response.json()).toMatchObject({
            error: missing ? "missing API key" : "invalid API key",
            code: "unauthenticated",
          });
        } else await response.body?.cancel();
      }
    },
  );

  it("takes each of its keys, in either header", async () => {
    await using served = await serve({ apiKeys: ["another", KEY] });
    for (const headers of [
      { "x-api-key": KEY },
      { "x-api-key": "another" },
      { authorization: `bearer ${KEY}` },
    ]) {
      const response = await fetch(`${served.url}${PREFIX}/sandboxes`, { headers });
      expect(response.status).toBe(200);
      await response.body?.cancel();
    }
  });

  it("guards the WebSocket, and takes a browser's subprotocol without repeating it", async () => {
    await using served = await serve({ apiKeys: [KEY] });
    const host = { Host: `127.0.0.1:${served.port}` };
    const missing = await rawExchange(served.port, upgradeRequest(STREAM, host));
    expect(missing).toMatch(/^HTTP\/1\.1 401 .*application\/json.*"missing API key"/s);
    const offered = `warren.v1, warren-key.${Buffer.from(KEY).toString("base64url")}`;
    const accepted = await rawExchangeHead(served.port, { ...host, "Sec-WebSocket-Protocol": offered });
    expect(accepted).toMatch(/^HTTP\/1\.1 101 /);
    expect(accepted).toMatch(/Sec-WebSocket-Protocol: warren\.v1\r\n/);
    expect(accepted).not.toContain("warren-key");
    const wrong = `warren.v1, warren-key.${Buffer.from("wrong").toString("base64url")}`;
    expect(
      await rawExchange(served.port, upgradeRequest(STREAM, { ...host, "Sec-WebSocket-Protocol": wrong })),
    ).toMatch(/^HTTP\/1\.1 401 /);
    await expect(
      createNodeClient({ url: served.url, apiKey: "wrong" }).execStream("box", { cmd: ["true"] }),
    ).rejects.toMatchObject({ code: "unauthenticated", message: "invalid API key" });
  });

  it("does not ask for a key on the Unix socket", async () => {
    await using served = await serve({ apiKeys: [KEY] });
    const client = createNodeClient({ url: `unix:${served.socketPath}` });
    expect(await client.list()).toHaveLength(1);
    await using session = await client.execStream("box", { cmd: ["true"] });
    expect(await session.exit).toMatchObject({ exit_code: 0 });
  });

  it("refuses an empty key as a setting", async () => {
    await expect(serve({ apiKeys: ["  "] })).rejects.toMatchObject({ code: "invalid_request" });
  });
});

/** The head of an accepted upgrade; the connection is closed then. */
async function rawExchangeHead(port: number, headers: Record<string, string>): Promise<string> {
  return await new Promise((resolve, reject) => {
    const { "Sec-WebSocket-Protocol": protocols = "", ...rest } = headers;
    const socket = new WebSocket(`ws://127.0.0.1:${port}${STREAM}`, protocols.split(", "), { headers: rest });
    socket.once("upgrade", (response) => {
      const lines = response.rawHeaders.flatMap((value, index, all) =>
        index % 2 === 0 ? [`${value}: ${all[index + 1]}`] : [],
      );
      resolve([`HTTP/1.1 ${response.statusCode} `, ...lines, ""].join("\r\n"));
    });
    socket.once("open", () => socket.close());
    socket.once("error", reject);
  });
}
