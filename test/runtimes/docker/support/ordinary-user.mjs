// Opens the docker runtime, makes a sandbox, runs a command in it, and removes it. argv: a state directory, a Docker host.
import { silentLogger } from "../../../../src/lib/log.ts";
import { openDockerRuntime } from "../../../../src/runtimes/docker/runtime.ts";
import { noLimits, shellInside } from "../../../../src/testing/guest-tools.ts";
import { runtimeFixture } from "../../../../src/testing/runtime-fixture.ts";

const [, , stateDir, host] = process.argv;
const report = { uid: process.getuid() };
try {
  const runtime = await openDockerRuntime({
    stateDir,
    ownerId: "ordinary",
    log: silentLogger,
    docker: { host },
  });
  const fixture = runtimeFixture(runtime, { image: "warren-base:1", isolation: "container" });
  const { id, guest } = await fixture.box({ limits: { memoryBytes: 64 << 20, cpuNano: 0, pids: 50 } });
  report.said = (await shellInside(guest, "id -u; head -n1 /proc/self/uid_map")).stdout;
  await runtime.updateLimits(id, { memoryBytes: 128 << 20, cpuNano: 0, pids: 60 });
  const limits = [(await runtime.stats(id)).memory_limit];
  await runtime.updateLimits(id, noLimits);
  limits.push((await runtime.stats(id)).memory_limit);
  report.limits = limits;
  await runtime.stop(id, { timeoutMs: 2000 });
  await runtime.start(id);
  await fixture.clean();
  report.left = await runtime.list();
  await runtime.close();
} catch ({ code, message, hint }) {
  report.error = { code, message, hint };
}
process.stdout.write(JSON.stringify(report));
