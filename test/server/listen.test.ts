import { chmod, link, mkdtemp, rm, stat, symlink, writeFile } from "node:fs/promises";
import { createServer as createPlainServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { createServer, type WarrenServer } from "../../src/server/server.ts";
import { createHostApi } from "./host-api.ts";

let folder: string;
const servers: WarrenServer[] = [];
const make = () => {
  const server = createServer(createHostApi(), { log: silentLogger });
  servers.push(server);
  return server;
};

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "warren-listen-"));
});
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
  await rm(folder, { recursive: true, force: true });
});

it("makes a socket for our own user only, whatever the umask, and takes it away again", async () => {
  const path = join(folder, "s");
  const before = process.umask(0);
  try {
    const server = make();
    await server.listenUnix(path);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect(process.umask(0)).toBe(0);
    await server.close();
    await expect(stat(path)).rejects.toThrow("ENOENT");
  } finally {
    process.umask(before);
  }
});

it("does not take the socket of a server that lives", async () => {
  const path = join(folder, "s");
  await make().listenUnix(path);
  await expect(make().listenUnix(path)).rejects.toMatchObject({ code: "engine_locked" });
  expect(await createNodeClient({ url: `unix:${path}` }).list()).toHaveLength(1);
});

it("replaces a socket that nobody answers on", async () => {
  const path = join(folder, "s");
  const lost = join(folder, "lost");
  const plain = createPlainServer();
  await new Promise<void>((resolve) => plain.listen(lost, resolve));
  // A second name of the socket stays behind when its server closes.
  await link(lost, path);
  await new Promise((resolve) => plain.close(resolve));
  expect((await stat(path)).isSocket()).toBe(true);
  await make().listenUnix(path);
  expect(await createNodeClient({ url: `unix:${path}` }).list()).toHaveLength(1);
});

it("touches nothing that is not a socket", async () => {
  const path = join(folder, "s");
  await writeFile(path, "precious");
  await chmod(path, 0o600);
  await expect(make().listenUnix(path)).rejects.toMatchObject({ code: "file_exists" });
  expect((await stat(path)).size).toBe(8);
  const aside = join(folder, "link");
  await symlink(path, aside);
  await expect(make().listenUnix(aside)).rejects.toMatchObject({ code: "file_exists" });
});

it("says what is wrong with an address", async () => {
  await expect(make().listenUnix(join(folder, "x".repeat(108)))).rejects.toMatchObject({
    code: "invalid_path",
  });
  await expect(make().listenUnix(join(folder, "none", "s"))).rejects.toMatchObject({
    code: "permission_denied",
    message: expect.stringContaining("its folder is missing"),
  });
  const { url } = await make().listenTcp({ host: "localhost", port: 0 });
  await expect(
    make().listenTcp({ host: "127.0.0.1", port: Number(new URL(url).port) }),
  ).rejects.toMatchObject({ code: "engine_locked" });
  await expect(make().listenTcp({ host: "no-such-host.invalid", port: 0 })).rejects.toMatchObject({
    code: "invalid_request",
  });
});
