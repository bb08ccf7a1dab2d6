import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Runtime } from "../../../src/contracts/runtime.ts";
import { createGuestClient } from "../../../src/guest/client.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { createApiClient } from "../../../src/runtimes/containers/api-client.ts";
import { openConnection } from "../../../src/runtimes/containers/endpoint.ts";
import { podmanGuards, thisMachine } from "../../../src/runtimes/podman/guards.ts";
import { openPodman } from "../../../src/runtimes/podman/open-podman.ts";
import { shellInside } from "../../../src/testing/guest-tools.ts";
import { type RuntimeFixture, runtimeFixture } from "../../../src/testing/runtime-fixture.ts";
import { makeStorage, type TestStorage, testImage } from "../podman/support/storage.ts";

// An engine that sees our files, and whose sockets we don't: it runs where an overlay lies over the state directory, as a
// virtual machine with a shared directory.
const serve = `
mount -t tmpfs tmpfs "$2" && mkdir "$2/upper" "$2/work" &&
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$1" &&
exec podman system service --time=0 "unix://$3"`;

let storage: TestStorage;
let dir: string;
let service: ReturnType<typeof spawn>;
const path = (...names: string[]) => join(dir, ...names);

beforeAll(async () => {
  storage = makeStorage();
  dir = mkdtempSync(join(tmpdir(), "wreach-"));
  for (const name of ["state", "over"]) mkdirSync(path(name));
  service = spawn("unshare", ["--mount", "sh", "-c", serve, "sh", path("state"), path("over"), path("api")], {
    stdio: ["ignore", "ignore", "inherit"],
    cwd: dir,
  });
  for (let i = 0; ; i++) {
    const connection = await openConnection({ kind: "unix", path: path("api") }).catch(() => undefined);
    connection?.destroy();
    if (connection) break;
    if (i > 500 || service.exitCode !== null) throw new Error("podman's service does not answer");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});
afterAll(async () => {
  service.kill("SIGTERM");
  if (service.exitCode === null && service.signalCode === null) await once(service, "exit");
  rmSync(dir, { recursive: true });
  storage.remove();
});

async function open(): Promise<{ runtime: Runtime; fixture: RuntimeFixture }> {
  const client = createApiClient({ kind: "unix", path: path("api") });
  const runtime = await openPodman(
    { stateDir: path("state"), ownerId: "t5", log: silentLogger },
    { client, uid: 0, guards: await podmanGuards(thisMachine(dir)), close: async () => client.close() },
  );
  return { runtime, fixture: runtimeFixture(runtime, { image: testImage, isolation: "container" }) };
}

const volumes = () => storage.podman("volume", "ls", "--format", "{{.Name}}").trim();

it("goes by exec where no socket of a sandbox's crosses, and remembers it", async () => {
  const first = await open();
  const box = await first.fixture.box();
  expect((await shellInside(box.guest, "echo fine")).stdout).toBe("fine\n");
  // It was made to be reached by its socket; those that follow bring the guest in a volume.
  expect(volumes()).toBe("");
  const next = await first.fixture.box({ readonlyRoot: true });
  expect((await shellInside(next.guest, "cat /proc/1/cmdline | tr '\\0' ' '")).stdout).toContain(
    "/.warren/guest",
  );
  expect((await shellInside(next.guest, "echo x > /.warren/guest")).exit_code).not.toBe(0);
  expect(volumes()).toMatch(/^warren-guest-t5-[0-9a-f]{24}$/);
  expect((await shellInside(next.guest, "ls /.warren/run", { user: "nobody" })).exit_code).not.toBe(0);
  await first.runtime.close();
  expect(existsSync(path("state", "podman", "reached-by-exec"))).toBe(true);

  const second = await open();
  for (const { id } of [box, next]) {
    const guest = createGuestClient(() => second.runtime.connect(id));
    expect((await shellInside(guest, "echo still")).stdout).toBe("still\n");
  }
  // In use it is filled again by whoever has just started, under those who run from it.
  const third = await second.fixture.box();
  expect((await shellInside(third.guest, "echo new")).stdout).toBe("new\n");
  await Promise.all([box, next, third].map(({ id }) => second.runtime.remove(id)));
  await second.runtime.close();
  expect(volumes()).toBe("");
});
