import { describe, expect, it } from "vitest";
import { silentLogger } from "../../src/lib/log.ts";
import { PREFIX } from "../../src/server/route.ts";
import { createServer } from "../../src/server/server.ts";
import { createHostApi } from "./host-api.ts";
import { rawExchange, upgradeRequest } from "./raw.ts";
import { type Served, serve } from "./serve.ts";

const STREAM = `${PREFIX}/sandboxes/box/exec/stream`;

const get = (served: Served, headers: Record<string, string>) =>
  rawExchange(
    served.port,
    [
      `GET ${PREFIX}/sandboxes HTTP/1.1`,
      ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
      "",
      "",
    ].join("\r\n"),
  );

const upgrade = (served: Served, headers: Record<string, string>) =>
  rawExchange(served.port, upgradeRequest(STREAM, { ...headers, Connection: "Upgrade" })).catch(() => "");

describe("without API keys", () => {
  it("lets this machine in under its loopback names", async () => {
    await using served = await serve();
    for (const name of ["127.0.0.1", "localhost", "LOCALHOST", "app.localhost", "[::1]"]) {
      expect(await get(served, { Host: `${name}:${served.port}` }), name).toMatch(/^HTTP\/1\.1 200 /);
    }
  });

  it("refuses a rebound DNS name, which an allowed host would let in", async () => {
    await using served = await serve();
    for (const host of [
      `evil.example:${served.port}`,
      "evil.example",
      "127.0.0.1",
      `127.0.0.1:${served.port + 1}`,
      `127.0.0.1.evil.example:${served.port}`,
      `localhost.evil.example:${served.port}`,
      `evil.example@127.0.0.1:${served.port}`,
      `[::1]evil:${served.port}`,
      "",
    ]) {
      expect(await get(served, { Host: host }), host).toMatch(/^HTTP\/1\.1 403 .*"code":"forbidden"/s);
      expect(await upgrade(served, { Host: host }), host).toMatch(/^HTTP\/1\.1 403 /);
    }
    await using loose = await serve({ allowedHosts: ["evil.example"] });
    expect(await get(loose, { Host: `evil.example:${loose.port}` })).toMatch(/^HTTP\/1\.1 200 /);
  });

  it("refuses other pages' requests and WebSockets, which an allowed origin would let in", async () => {
    await using served = await serve();
    const Host = `127.0.0.1:${served.port}`;
    for (const Origin of ["https://evil.example", "null", `https://${Host}`, "http://127.0.0.1:1", ""]) {
      expect(await get(served, { Host, Origin }), Origin).toMatch(/^HTTP\/1\.1 403 .*"code":"forbidden"/s);
      expect(await upgrade(served, { Host, Origin }), Origin).toMatch(/^HTTP\/1\.1 403 /);
    }
    expect(await get(served, { Host, Origin: `http://${Host}` })).toMatch(/^HTTP\/1\.1 200 /);

    await using loose = await serve({ allowedOrigins: ["https://evil.example"] });
    const allowed = { Host: `127.0.0.1:${loose.port}`, Origin: "https://evil.example" };
    const response = await get(loose, allowed);
    expect(response).toMatch(/^HTTP\/1\.1 200 /);
    expect(response).toMatch(/access-control-allow-origin: https:\/\/evil\.example/i);
  });

  it("answers a preflight of an allowed origin as den does, and no other", async () => {
    await using served = await serve({ allowedOrigins: ["https://app.example"] });
    const preflight = (origin: string) =>
      fetch(`${served.url}${PREFIX}/sandboxes`, {
        method: "OPTIONS",
        headers: { origin, "access-control-request-method": "POST" },
      });
    const yes = await preflight("https://app.example");
    expect(yes.status).toBe(204);
    expect(Object.fromEntries(yes.headers)).toMatchObject({
      "access-control-allow-origin": "https://app.example",
      "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
      "access-control-allow-headers": "Accept, Authorization, Content-Type, X-API-Key",
      "access-control-max-age": "300",
    });
    expect((await preflight("https://evil.example")).status).toBe(403);
  });

  it("does not listen where others reach it", async () => {
    const open = createServer(createHostApi(), { log: silentLogger });
    for (const host of ["0.0.0.0", "::"]) {
      await expect(open.listenTcp({ host, port: 0 })).rejects.toMatchObject({
        code: "forbidden",
        hint: expect.stringContaining("key"),
      });
    }
    await open.close();
    const keyed = createServer(createHostApi(), { log: silentLogger, apiKeys: ["k"] });
    const { url } = await keyed.listenTcp({ host: "0.0.0.0", port: 0 });
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    await keyed.close();
  });
});

it("with API keys takes any Host, but gives CORS headers to allowed origins alone", async () => {
  await using served = await serve({ apiKeys: ["k"], allowedOrigins: ["https://app.example"] });
  const headers = { Host: "warren.example", "X-API-Key": "k" };
  expect(await get(served, { ...headers, Origin: "https://app.example" })).toMatch(
    /^HTTP\/1\.1 200 .*access-control-allow-origin: https:\/\/app\.example/is,
  );
  const other = await get(served, { ...headers, Origin: "https://evil.example" });
  expect(other).toMatch(/^HTTP\/1\.1 200 /);
  expect(other).not.toMatch(/access-control/i);
});
