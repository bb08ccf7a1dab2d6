import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { NetworkReach, Runtime } from "../../src/contracts/runtime.ts";
import { type Engine, openEngine } from "../../src/engine/engine.ts";
import { createDeferred } from "../../src/lib/deferred.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { openFakeRuntime } from "../../src/runtimes/fake/runtime.ts";
import { expectFailure } from "../../src/testing/failures.ts";
import { eventually } from "../../src/testing/wait.ts";
import { removeStateDir } from "./support/engine.ts";
import { tempDir } from "./support/temp-dir.ts";

let dir: ReturnType<typeof tempDir>;
let engine: Engine;
/** What the kernel says: by TCP, to port 80. */
let deny: (address: string) => void;
/** What a runtime does besides when rules change, when what has come is asked for, and when it shall watch. */
let onChange: (reach: NetworkReach) => void;
let onSettle: () => void;
let onWatch: () => void;
let over: ReturnType<typeof createDeferred<WarrenError | undefined>>;

beforeEach(async () => {
  dir = tempDir();
  [onChange, onSettle, onWatch] = [() => {}, () => {}, () => {}];
  over = createDeferred();
  const fake = await openFakeRuntime({ stateDir: dir.path, ownerId: "testtest", log: silentLogger });
  const { networkModes } = fake.capabilities;
  let rules: readonly string[] = [];
  const runtime: Runtime = {
    ...fake,
    capabilities: { ...fake.capabilities, networkModes: [...networkModes, "open"] },
    create: (spec, options) => fake.create({ ...spec, network: "none" }, options),
    async updateReach(_, reach) {
      onChange(reach);
      rules = reach.rules;
    },
    reachItems: async () => [...rules, "-10.0.0.0/8"],
    async watchDenied(_, onDenied) {
      onWatch();
      deny = (address) => onDenied({ cause: "rules", protocol: "tcp", address, port: 80 });
      return {
        ended: over.promise,
        settle: async () => onSettle(),
        [Symbol.dispose]: () => over.resolve(undefined),
      };
    },
  };
  const runtimes = { fake: runtime };
  engine = await openEngine({ stateDir: dir.path, runtimes, defaultRuntime: "fake", log: silentLogger });
});
afterEach(async () => {
  for (const { id } of await engine.list()) await engine.remove(id);
  await engine.close();
  await removeStateDir(dir.path);
});

describe("what open network denies", () => {
  it("is explained by the rules that denied it, whenever it is told", async () => {
    const { id } = await engine.create({ network_mode: "open" });
    const told = async () =>
      (await engine.network.decisions(id)).map(({ host, cause, rule }) => `${host} ${cause} ${rule}`);
    await engine.network.set(id, { deny: ["198.51.100.7"] });
    // On its way when the next change comes.
    onSettle = () => {
      onSettle = () => {};
      deny("198.51.100.7");
    };
    // Before the new rules are in force, and after.
    onChange = () => {
      deny("10.1.1.1");
      deny("203.0.113.9");
    };
    await engine.network.set(id, { deny: ["203.0.113.9"], allow: ["10.1.0.0/16"] });
    deny("8.8.8.8");
    expect(await told()).toEqual([
      "198.51.100.7 rule 198.51.100.7",
      "10.1.1.1 internal undefined",
      "203.0.113.9 rule 203.0.113.9",
      "8.8.8.8 rule undefined",
    ]);
  });

  it("is told when the command that wanted it ends", async () => {
    const { id } = await engine.create({ network_mode: "open" });
    const first = await engine.exec(id, { cmd: ["true"] });
    expect(first.denied).toBeUndefined();
    onSettle = () => deny("10.1.1.1");
    expect(await engine.exec(id, { cmd: ["true"] })).toMatchObject({ denied: 1 });
  });

  it("is not recorded where it can't be told, which is said, and costs nothing else", async () => {
    onWatch = () => {
      throw new WarrenError("unsupported", "the kernel can't tell");
    };
    const { id } = await engine.create({ network_mode: "open" });
    await eventually("the failure", async () => !(await engine.network.get(id)).records);
    await expect(engine.network.decisions(id)).rejects.toMatchObject({ message: "the kernel can't tell" });
    expect((await engine.exec(id, { cmd: ["true"] })).denied).toBeUndefined();
    await engine.network.set(id, { deny: ["198.51.100.7"] });
    await engine.stop(id, { timeoutMs: 0 });
    onWatch = () => {};
    await engine.start(id);
    expect(await engine.network.get(id)).toMatchObject({ records: true, counts: { denied: 0 } });
    expect(await engine.network.decisions(id)).toEqual([]);
  });

  it("that was recorded stays, when who told it ends", async () => {
    const { id } = await engine.create({ network_mode: "open" });
    await engine.exec(id, { cmd: ["true"] });
    deny("10.1.1.1");
    over.resolve(new WarrenError("runtime_failed", "who watches was ended"));
    await eventually("its end", async () => !(await engine.network.get(id)).records);
    expect(await engine.network.decisions(id)).toMatchObject([{ host: "10.1.1.1", port: 80 }]);
    await engine.stop(id, { timeoutMs: 0 });
    await expectFailure(engine.network.explain(id, "example.com", 80), "invalid_request");
    expect(await engine.network.decisions(id)).toEqual([]);
  });
});
