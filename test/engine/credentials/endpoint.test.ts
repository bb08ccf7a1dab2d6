import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { answerAws } from "../../../src/engine/credentials/aws.ts";
import { createEndpoint } from "../../../src/engine/credentials/endpoint.ts";
import { answerGcp } from "../../../src/engine/credentials/gcp.ts";

const NOW = Date.parse("2026-01-01T00:00:00Z");
const aws = { AccessKeyId: "ASIATEST", SecretAccessKey: "secret", SessionToken: "session" };
const gcp = { access_token: "ya29.token", project: "my-project", account: "me@example.com" };

let awsNow: Partial<typeof aws & { Expiration: string }> | undefined;
let gcpNow: Partial<typeof gcp & { expires_at: string; numeric_project: string }> | undefined;
let server: Server;
let port: number;
beforeEach(async () => {
  [awsNow, gcpNow] = [aws, gcp];
  const state = { remedy: "warren credentials set box", now: NOW };
  const endpoint = createEndpoint((asked) =>
    asked.path === "/aws"
      ? answerAws(asked, { credentials: awsNow as typeof aws, token: "the-token", ...state })
      : answerGcp(asked, { isGiven: true, credentials: gcpNow as typeof gcp, ...state }),
  );
  server = createServer({ allowHalfOpen: true }, (program) => {
    program.on("error", () => {});
    endpoint.serve(program).catch(() => program.destroy());
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  ({ port } = server.address() as AddressInfo);
});
afterEach(() => {
  server.close();
});

/** All that comes back on a connection to which this is said. */
async function say(text: string): Promise<string> {
  const program = connect({ port, host: "127.0.0.1", allowHalfOpen: true }).on("error", () => {});
  let heard = "";
  program.on("data", (chunk: Buffer) => {
    heard += chunk.toString();
  });
  program.end(text);
  await once(program, "close");
  return heard;
}

/** Head fields beside Host as the client sends them. */
async function get(path: string, fields: Record<string, string>, method = "GET") {
  const lines = [`${method} ${path} HTTP/1.1`, `Host: 127.0.0.1:${port}`, "Connection: close"];
  for (const [name, value] of Object.entries(fields)) lines.push(`${name}: ${value}`);
  const [head = "", body = ""] = (await say(`${lines.join("\r\n")}\r\n\r\n`)).split("\r\n\r\n");
  return { status: Number(head.split(" ")[1]), head: head.toLowerCase(), body };
}

describe("AWS's container credentials", () => {
  // What @aws-sdk/credential-provider-http 3, credential-provider-imds and botocore 1.29 send.
  it.each([
    ["fromHttp", { Authorization: "the-token" }],
    ["fromContainerMetadata", { Authorization: "the-token", accept: "application/json" }],
    [
      "botocore",
      { Accept: "application/json", "User-Agent": "Botocore/1.29.27", Authorization: "the-token" },
    ],
  ])("are given to %s", async (_client, fields) => {
    awsNow = { ...aws, Expiration: "2026-01-01T01:00:00.5+00:00" };
    const { status, head, body } = await get("/aws", fields);
    expect([status, JSON.parse(body)]).toEqual([
      200,
      {
        AccessKeyId: "ASIATEST",
        SecretAccessKey: "secret",
        Token: "session",
        Expiration: "2026-01-01T01:00:00Z",
      },
    ]);
    expect(head).toContain("cache-control: no-store");
  });

  it("have a moment and a token in any case: SDKs want both", async () => {
    awsNow = { AccessKeyId: "AKIA", SecretAccessKey: "s" };
    const { body } = await get("/aws", { Authorization: "the-token" });
    expect(JSON.parse(body)).toMatchObject({ Token: "", Expiration: "2026-01-01T01:00:00Z" });
  });

  it("are refused without the token, and when they have ended or are lost, with what to do", async () => {
    for (const fields of [
      {},
      { Authorization: "" },
      { Authorization: "the-tokex" },
      { Authorization: "Bearer the-token" },
    ]) {
      const { status, body } = await get("/aws", fields);
      expect([status, JSON.parse(body)]).toMatchObject([401, { Code: "Unauthorized", code: "Unauthorized" }]);
      expect(body).not.toContain("secret");
    }
    awsNow = { ...aws, Expiration: "2026-01-01T00:00:00Z" };
    const ended = await get("/aws", { Authorization: "the-token" });
    expect([ended.status, JSON.parse(ended.body)]).toMatchObject([403, { Code: "ExpiredToken" }]);
    expect(ended.body).toContain("warren credentials set box");
    awsNow = undefined;
    expect((await get("/aws", { Authorization: "the-token" })).status).toBe(404);
  });
});

describe("Google's metadata", () => {
  const flavor = { "Metadata-Flavor": "Google" };
  const self = {
    aliases: ["default"],
    email: "me@example.com",
    scopes: ["https://www.googleapis.com/auth/cloud-platform"],
  };
  const accounts = "/computeMetadata/v1/instance/service-accounts";

  // What google-auth 1.5 (Python), google-auth-library 10 (Node) and cloud.google.com/go/compute/metadata ask for.
  it.each<[string, unknown]>([
    ["/", "computeMetadata/\n"],
    ["/computeMetadata/v1/instance", "service-accounts/\n"],
    ["/computeMetadata/v1/project/project-id", "my-project"],
    ["/computeMetadata/v1/universe/universe-domain", "googleapis.com"],
    ["/computeMetadata/v1/universe/universe_domain", "googleapis.com"],
    [`${accounts}/?recursive=true`, { default: self, "me@example.com": self }],
    [`${accounts}/default/?recursive=true`, self],
    [`${accounts}/default/?recursive=True`, self],
    [`${accounts}/default/`, "aliases\nemail\nscopes\ntoken\n"],
    [`${accounts}/default/email`, "me@example.com"],
    [`${accounts}/default/scopes`, self.scopes[0]],
    [`${accounts}/me@example.com/email`, "me@example.com"],
    [
      `${accounts}/default/token?scopes=a,b`,
      { access_token: "ya29.token", expires_in: 600, token_type: "Bearer" },
    ],
  ])("answers %s", async (path, expected) => {
    const { status, head, body } = await get(path, flavor);
    expect([status, typeof expected === "string" ? body : JSON.parse(body)]).toEqual([200, expected]);
    expect(head).toContain("metadata-flavor: google");
  });

  it.each([
    [`${accounts}/other@example.com/token`],
    [`${accounts}/default/identity?audience=x`],
    ["/computeMetadata/v1/project/numeric-project-id"],
    ["/computeMetadata/v1/instance/attributes/ssh-keys"],
    ["/computeMetadata/v1beta1/instance/service-accounts/default/token"],
    ["/computeMetadata/v1/../../aws"],
    ["/latest/meta-data/"],
  ])("has nothing at %s", async (path) => {
    const { status, body } = await get(path, flavor);
    expect(status === 404 || status === 401).toBe(true);
    expect(body).not.toMatch(/ya29|secret/);
  });

  it("is told to nobody whose request was made for him", async () => {
    for (const fields of [
      {},
      { "Metadata-Flavor": "google" },
      { ...flavor, "X-Forwarded-For": "10.0.0.1" },
    ]) {
      const { status, body } = await get(`${accounts}/default/token`, fields as Record<string, string>);
      expect([status, body]).toEqual([403, expect.not.stringContaining("ya29")]);
    }
  });

  it("says how long a token is good, and what to do when it is not", async () => {
    gcpNow = { ...gcp, expires_at: "2026-01-01T00:10:00.9Z", numeric_project: "123" };
    expect(JSON.parse((await get(`${accounts}/default/token`, flavor)).body)).toMatchObject({
      expires_in: 600,
    });
    expect((await get("/computeMetadata/v1/project/numeric-project-id", flavor)).body).toBe("123");
    gcpNow = { ...gcp, expires_at: "2026-01-01T00:00:00Z" };
    expect(await get(`${accounts}/default/token`, flavor)).toMatchObject({
      status: 403,
      body: expect.stringContaining("warren credentials set box"),
    });
  });
});

describe("the endpoint", () => {
  it("takes no bodies, no other methods, and nothing that can be read in two ways", async () => {
    const token = { Authorization: "the-token" };
    for (const method of ["POST", "PUT", "DELETE", "OPTIONS"])
      expect((await get("/aws", token, method)).status).toBe(405);
    expect((await get("/aws", { ...token, "Content-Length": "3" })).status).toBe(405);
    expect((await get("/aws", { ...token, "Transfer-Encoding": "chunked" })).status).toBe(405);
    const head = await get("/aws", token, "HEAD");
    expect([head.status, head.body]).toEqual([200, ""]);
    for (const odd of [
      "GET /aws HTTP/1.1\r\n\r\n",
      "GET /aws HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
      "GET /aws HTTP/1.1\r\nHost: a\r\nAuthorization : the-token\r\n\r\n",
      `GET /aws HTTP/1.1\r\nHost: a\r\nX: ${"x".repeat(20_000)}\r\n\r\n`,
      "\x16\x03\x01\x02\x00\x01\x00",
      "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
      "GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    ]) {
      expect(await say(odd), odd.slice(0, 40)).not.toMatch(/ 200 |secret/);
    }
  });

  it("answers several requests of one connection, each with what is there then", async () => {
    const program = connect(port, "127.0.0.1").on("error", () => {});
    let heard = "";
    program.on("data", (chunk: Buffer) => {
      heard += chunk.toString();
    });
    const request = "GET /aws HTTP/1.1\r\nHost: a\r\nAuthorization: the-token\r\n\r\n";
    program.write(request + request);
    await expect.poll(() => heard.match(/ASIATEST/g)?.length).toBe(2);
    // What was replaced counts for the next one.
    awsNow = { ...aws, AccessKeyId: "ASIANEXT" };
    program.write(request);
    await expect.poll(() => heard).toContain("ASIANEXT");
    program.destroy();
  });
});
