import { join } from "node:path";
import { createNodeClient } from "../../src/client/node/index.ts";
import { openEngine } from "../../src/engine/engine.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { openFakeRuntime } from "../../src/runtimes/fake/runtime.ts";
import { createServer } from "../../src/server/server.ts";
import { testApi } from "../../src/testing/index.ts";
import { withImages } from "../engine/support/image-store.ts";
import { tempDir } from "../engine/support/temp-dir.ts";
import { imageTests } from "./support/image-tests.ts";
import { shortForm } from "./support/short-form.ts";

const KEY = "a key for the conformance suite";

/** The real engine behind the real server; `connect` says which of its entrances the client takes. */
async function serveEngine(
  connect: (at: { url: string; socket: string }) => { url: string; apiKey?: string },
  { images = false } = {},
) {
  const dir = tempDir();
  const fake = await openFakeRuntime({ stateDir: dir.path, ownerId: "testhttp", log: silentLogger });
  const runtime = images ? withImages(fake, join(dir.path, "images")).runtime : fake;
  const engine = await openEngine({
    stateDir: dir.path,
    runtimes: { fake: runtime },
    defaultRuntime: "fake",
    log: silentLogger,
  });
  const server = createServer(engine, { apiKeys: [KEY], allowBinds: true, log: silentLogger });
  const socket = join(dir.path, "engine.sock");
  await server.listenUnix(socket);
  const { url } = await server.listenTcp({ host: "127.0.0.1", port: 0 });
  return {
    api: createNodeClient(connect({ url, socket })),
    close: async () => {
      await server.close();
      await engine.close();
      dir[Symbol.dispose]();
    },
  };
}

const fakeLacks = { lacks: ["pause", "limits", "images"] } as const;
testApi("over HTTP with a key", () => serveEngine(({ url }) => ({ url, apiKey: KEY })), {
  ...fakeLacks,
  deviations: [
    {
      reason:
        "over TCP nobody uses an SSH agent of the server's machine (test/server/ssh-agent-http.test.ts)",
      tests: [
        "lets programs inside sign with an SSH agent in any network, and change nothing of it",
        "refuses an SSH agent that is none",
      ],
    },
  ],
});
testApi("over the Unix socket", () => serveEngine(({ socket }) => ({ url: `unix:${socket}` })), {
  ...fakeLacks,
  ...shortForm,
});
testApi(
  "over HTTP, on a runtime with images",
  () => serveEngine(({ url }) => ({ url, apiKey: KEY }), { images: true }),
  { lacks: ["pause", "limits"], pullable: "registry.test/tiny:1", only: imageTests },
);
