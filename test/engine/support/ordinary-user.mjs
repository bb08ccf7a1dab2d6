// Makes a sandbox with the fake runtime, runs a command in it, and removes it. argv[2]: an empty directory.
import { createGuestClient } from "../../../src/guest/client.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { openFakeRuntime } from "../../../src/runtimes/fake/runtime.ts";
import { noLimits, shellInside } from "../../../src/testing/guest-tools.ts";

const runtime = await openFakeRuntime({ stateDir: process.argv[2], ownerId: "ordinary", log: silentLogger });
const id = "ordinaryordinary";
await runtime.create({
  id,
  image: await runtime.images.ensure("host"),
  env: {},
  workdir: "/",
  hostname: id,
  labels: {},
  network: "none",
  readonlyRoot: false,
  tmpfs: [],
  mounts: [],
  limits: noLimits,
});
await runtime.start(id);
const guest = createGuestClient(() => runtime.connect(id));
const { stdout } = await shellInside(
  guest,
  "id -u; mkdir -p /opt/deep/er && touch /opt/deep/er/file && chmod 0 /opt/deep",
);
await runtime.remove(id);
process.stdout.write(JSON.stringify({ uid: process.getuid(), said: stdout, left: await runtime.list() }));
