// An engine that is going to be killed. argv: state directory, method of the runtime, "before" or "after".
// At that point of the life of a sandbox it says so and hangs. Without a method it hangs when it has made one sandbox of
// each kind: running, stopped, and running with a command.
import { openEngine } from "../../../src/engine/engine.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { openFakeRuntime } from "../../../src/runtimes/fake/runtime.ts";

const [stateDir, method, when] = process.argv.slice(2);
const fake = await openFakeRuntime({ stateDir, ownerId: "testtest", log: silentLogger });
let armed = method === "create" || method === "start";

function hang(id) {
  process.stdout.write(`${JSON.stringify({ id })}\n`);
  setInterval(() => {}, 60_000);
  return new Promise(() => {});
}

const runtime = { ...fake };
if (method) {
  runtime[method] = async (...args) => {
    const id = typeof args[0] === "string" ? args[0] : args[0].id;
    if (armed && when === "before") return await hang(id);
    const result = await fake[method](...args);
    return armed ? await hang(id) : result;
  };
}
const engine = await openEngine({
  stateDir,
  runtimes: { fake: runtime },
  defaultRuntime: "fake",
  log: silentLogger,
});
const { id } = await engine.create({ name: "one", timeout: -1 });
await engine.files.write(id, "/opt/file", Buffer.from("kept"));
armed = true;
if (method === "stop") await engine.stop(id);
if (method === "remove") await engine.remove(id);
const stopped = await engine.create({ name: "two", timeout: 3600, env: { A: "b" }, labels: { l: "1" } });
await engine.stop(stopped.id);
await engine.create({ name: "three", cmd: ["sleep", "600"] });
process.stdout.write(`${JSON.stringify(await engine.list())}\n`);
setInterval(() => {}, 60_000);
