import { X509Certificate } from "node:crypto";
import { readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Engine, openEngine } from "../../src/engine/engine.ts";
import { createVault } from "../../src/engine/secrets/vault.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { openFakeRuntime } from "../../src/runtimes/fake/runtime.ts";
import { expectFailure } from "../../src/testing/failures.ts";
import { removeStateDir } from "./support/engine.ts";
import { manualClock } from "./support/manual-clock.ts";
import { tempDir } from "./support/temp-dir.ts";

const VALUE = "value-0123456789";
const DAY_MS = 86_400_000;

describe("the vault", () => {
  it("keeps values encrypted, each sandbox's for itself, and for its owner", async () => {
    using dir = tempDir();
    const at = (name: string) => join(dir.path, "secrets", name);
    const steps: string[] = [];
    const vault = createVault(dir.path, (step) => void steps.push(step));
    expect(await vault.read("aaa")).toBeUndefined();
    const entries = new Map([["A", { value: VALUE, placeholder: "p" }]]);
    await vault.write("aaa", entries);
    await vault.write("bbb", new Map());
    expect(await createVault(dir.path, () => {}).read("aaa")).toEqual(entries);
    expect(steps).toEqual(["secret.key-made", "secret.sealed", "secret.sealed"]);
    for (const name of readdirSync(join(dir.path, "secrets"))) {
      expect(readFileSync(at(name), "latin1")).not.toContain(VALUE);
      expect(statSync(at(name)).mode & 0o777).toBe(0o600);
    }
    expect(statSync(join(dir.path, "secrets")).mode & 0o777).toBe(0o700);
    const sealed = readFileSync(at("aaa.sealed"));
    await vault.write("aaa", entries);
    expect(readFileSync(at("aaa.sealed")).equals(sealed)).toBe(false);

    // Another sandbox's, one that was changed, a piece of one, and one of another key.
    renameSync(at("aaa.sealed"), at("ccc.sealed"));
    expect(await vault.read("ccc")).toBeUndefined();
    for (const wrong of [Buffer.from(sealed).fill(7, 20, 21), sealed.subarray(0, 20), Buffer.alloc(0)]) {
      writeFileSync(at("aaa.sealed"), wrong);
      expect(await vault.read("aaa")).toBeUndefined();
    }
    writeFileSync(at("aaa.sealed"), sealed);
    expect(await vault.read("aaa")).toEqual(entries);
    rmSync(at("key"));
    expect(await createVault(dir.path, () => {}).read("aaa")).toBeUndefined();

    // What is kept beside them, of a sandbox that lives and of one that is no more.
    for (const name of ["bbb.credentials", "eee.credentials"]) await vault.write(name, entries);
    renameSync(at("eee.credentials.sealed"), at("eee.sealed"));
    expect(await vault.read("eee")).toBeUndefined();
    renameSync(at("eee.sealed"), at("eee.credentials.sealed"));
    expect(await vault.read("eee.credentials")).toEqual(entries);
    writeFileSync(at("ddd.sealed.new"), "half");
    await vault.tidy();
    await vault.sweep((id) => id === "bbb");
    expect(readdirSync(join(dir.path, "secrets")).sort()).toEqual([
      "bbb.credentials.sealed",
      "bbb.sealed",
      "key",
    ]);
  });
});

describe("an engine with secrets", () => {
  let dir: ReturnType<typeof tempDir>;
  let engine: Engine;
  const clock = manualClock(Date.now());
  const open = async () => {
    const runtime = await openFakeRuntime({ stateDir: dir.path, ownerId: "testtest", log: silentLogger });
    engine = await openEngine({
      stateDir: dir.path,
      runtimes: { fake: runtime },
      defaultRuntime: "fake",
      log: silentLogger,
      clock,
    });
  };
  beforeEach(async () => {
    dir = tempDir();
    await open();
  });
  afterEach(async () => {
    for (const { id } of await engine.list()) await engine.remove(id);
    await engine.close();
    await removeStateDir(dir.path);
  });
  const names = () => readdirSync(join(dir.path, "secrets")).sort();
  const trusted = async (id: string) => {
    const { stdout } = await engine.exec(id, { cmd: ["sh", "-c", 'cat "$NODE_EXTRA_CA_CERTS"'] });
    return new X509Certificate(stdout).fingerprint256;
  };

  it("tells of them in events without their values, and forgets them with the sandbox", async () => {
    const told: unknown[] = [];
    const enough = new AbortController();
    const listening = (async () => {
      for await (const event of engine.events({ signal: enough.signal })) told.push(event);
    })().catch(() => {});
    const secrets = [{ name: "A", hosts: ["api.test"], value: VALUE }];
    const { id } = await engine.create({ secrets });
    await engine.secrets.put(id, "B", { value: VALUE, hosts: ["api.test"], basic: { username: "u" } });
    await engine.secrets.put(id, "B", { value: `${VALUE}2`, header: {} });
    enough.abort();
    await listening;
    expect(told.at(-1)).toMatchObject({
      type: "updated",
      sandbox: {
        secrets: [{ name: "A" }, { name: "B", hosts: ["api.test"], header: { name: "Authorization" } }],
      },
    });
    expect(JSON.stringify(told)).not.toContain(VALUE);
    const audit = readFileSync(join(dir.path, "audit.jsonl"), "utf8");
    expect(audit).toMatch(/"type":"secrets".*"action":"put","name":"B".*"hosts":\["api.test"\]/);
    expect(audit).not.toContain(VALUE);
    expect(names()).toContain(`${id}.sealed`);
    await engine.remove(id);
    expect(names()).toEqual(["authority.pem", "key"]);
    await expectFailure(engine.create({ secrets, image: "/nowhere" }), "image_not_found", "image_invalid");
    expect(names()).toEqual(["authority.pem", "key"]);
  });

  it("says that values are lost, and takes them anew, with the same authority", async () => {
    const { id } = await engine.create({
      secrets: [{ name: "A", hosts: ["http://127.0.0.1:9"], value: VALUE, header: {} }],
      network: { allow: ["127.0.0.1:9"] },
    });
    const before = await trusted(id);
    await engine.close();
    rmSync(join(dir.path, "secrets", `${id}.sealed`));
    await open();
    const script = 'curl -s -x "$http_proxy" --noproxy "" http://127.0.0.1:9/';
    const ask = async () => (await engine.exec(id, { cmd: ["sh", "-c", script] })).stdout;
    expect(await ask()).toContain("the value of the secret A is lost");
    await engine.secrets.put(id, "A", { value: VALUE });
    expect(await ask()).toContain("can't be reached");
    expect(await trusted(id)).toBe(before);
  });

  it("makes a new authority before the old one ends, which sandboxes that live get to know", async () => {
    const { id } = await engine.create({
      timeout: -1,
      secrets: [{ name: "A", hosts: ["api.test"], value: VALUE }],
    });
    const before = await trusted(id);
    clock.step(3640 * DAY_MS);
    await engine.close();
    await open();
    await expect.poll(() => trusted(id), { timeout: 10_000 }).not.toBe(before);
  });
});
