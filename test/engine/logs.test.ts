import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import type { SandboxApi } from "../../src/contracts/api.ts";
import { encodeRecord } from "../../src/engine/logs/record.ts";
import { SandboxLog } from "../../src/engine/logs/sandbox-log.ts";
import { eventually } from "../../src/testing/wait.ts";
import { stateDir, testEngine } from "./support/engine.ts";
import { tempDir } from "./support/temp-dir.ts";

const MIB = 1024 ** 2;

async function output(api: SandboxApi, id: string): Promise<string> {
  const parts: Uint8Array[] = [];
  for await (const { data } of api.logs(id)) parts.push(data);
  return Buffer.concat(parts).toString();
}

describe("the log of a sandbox", () => {
  it("goes on after the next engine has come, with nothing lost or twice", async () => {
    const dir = stateDir();
    // Waits for each file in turn, and says so.
    const script =
      "for n in 1 2 3; do until [ -e /tmp/$n ]; do sleep 0.01; done; seq $((n * 1000)) $((n * 1000 + 999)); done; sleep 600";
    const said = (...ns: number[]) =>
      ns.flatMap((n) => Array.from({ length: 1000 }, (_, i) => `${n * 1000 + i}\n`)).join("");
    const first = await testEngine(dir.path);
    const { id } = await first.engine.create({ cmd: ["sh", "-c", script] });
    await first.engine.exec(id, { cmd: ["touch", "/tmp/1"] });
    await eventually("the first", async () => (await output(first.engine, id)) === said(1));
    await first.engine.close();

    await first.runtime.connect(id).then((socket) => socket.destroy());
    const { createGuestClient } = await import("../../src/guest/client.ts");
    const guest = createGuestClient(() => first.runtime.connect(id));
    // Nobody listens now.
    await (await guest.spawn({ argv: ["touch", "/tmp/2"], env: {} })).exit;
    await using second = await testEngine(dir.path);
    await eventually("the second", async () => (await output(second.engine, id)) === said(1, 2));
    await second.engine.exec(id, { cmd: ["touch", "/tmp/3"] });
    await eventually("the third", async () => (await output(second.engine, id)) === said(1, 2, 3));
    await second.engine.remove(id);
    expect(readdirSync(join(dir.path, "logs"))).toEqual([]);
  });

  it("costs bounded disk for a flood, and holds no other up", async () => {
    const dir = stateDir();
    await using made = await testEngine(dir.path, {
      config: { logFileBytes: 256 * 1024, logFiles: 2, logBytesPerS: 256 * 1024 },
    });
    const { engine } = made;
    const { id } = await engine.create({ cmd: ["yes"] });
    const other = await engine.create({});
    const bytesKept = () => {
      const path = join(dir.path, "logs", id);
      return readdirSync(path).reduce((sum, name) => sum + statSync(join(path, name)).size, 0);
    };
    await eventually("the files to be full", async () => (await output(engine, id)).length > 256 * 1024);
    for (let i = 0; i < 50; i++) {
      expect((await engine.exec(other.id, { cmd: ["true"] })).exit_code).toBe(0);
      expect(bytesKept()).toBeLessThanOrEqual(512 * 1024);
    }
    const began = performance.now();
    await engine.stop(id, { timeoutMs: 0 });
    expect(performance.now() - began).toBeLessThan(20_000);
    expect((await output(engine, id)).length).toBeGreaterThan(100 * 1024);
  });

  it("removes what belongs to no sandbox, and keeps what does", async () => {
    const dir = stateDir();
    const first = await testEngine(dir.path);
    const { id } = await first.engine.create({ cmd: ["echo", "kept"] });
    await first.engine.wait(id);
    await first.engine.close();
    mkdirSync(join(dir.path, "logs", "zaaaaaaaaaaaaaaa"));
    await using second = await testEngine(dir.path);
    expect(readdirSync(join(dir.path, "logs"))).toEqual([id]);
    expect(await output(second.engine, id)).toBe("kept\n");
    expect(await second.engine.wait(id)).toEqual({ exit_code: 0, status: "stopped" });
  });
});

describe("the files of a log", () => {
  const record = (offset: number, text: string, run = 1) => ({
    stream: "stdout" as const,
    at: 5,
    run,
    offset,
    data: Buffer.from(text),
  });
  const openLog = (path: string, fileBytes = MIB) => {
    const log = new SandboxLog(path, { fileBytes, files: 2 });
    onTestFinished(() => log.close());
    return log;
  };
  const texts = async (log: SandboxLog) => {
    const found: string[] = [];
    for await (const stored of log.read(await log.start())) {
      found.push(Buffer.from(stored.record.data).toString());
    }
    return found;
  };

  it("lose a torn last record, wherever it is torn, and go on", async () => {
    using dir = tempDir();
    const path = join(dir.path, "box");
    const log = openLog(path);
    await log.append(record(0, "one"));
    await log.append(record(3, "two"));
    await log.close();
    const [name = ""] = readdirSync(path);
    const whole = readFileSync(join(path, name));
    const size = encodeRecord(record(3, "two")).length;
    for (let cut = 1; cut <= size; cut++) {
      writeFileSync(join(path, name), whole.subarray(0, whole.length - cut));
      const again = openLog(path);
      expect(await again.offsets(1)).toEqual({ stdout: 3, stderr: 0 });
      await again.append(record(3, "new"));
      expect(await texts(again)).toEqual(["one", "new"]);
      await again.close();
    }
    for (let at = whole.length - size; at < whole.length; at++) {
      const broken = Buffer.from(whole);
      broken[at] = (broken[at] ?? 0) ^ 0x55;
      writeFileSync(join(path, name), broken);
      expect(await texts(openLog(path))).toEqual(["one"]);
    }
    for (const junk of [Buffer.alloc(0), Buffer.from("junk"), Buffer.alloc(100, 0xff)]) {
      writeFileSync(join(path, name), whole);
      writeFileSync(join(path, "0000000002.log"), junk);
      const again = openLog(path);
      expect(await again.offsets(1)).toEqual({ stdout: 6, stderr: 0 });
      await again.append(record(6, "anew"));
      expect(await texts(again)).toEqual(["one", "two", "anew"]);
      await again.close();
    }
  });

  it("are replaced in turn, and remember how far a silent stream had come", async () => {
    using dir = tempDir();
    const path = join(dir.path, "box");
    const log = openLog(path, 1024);
    await log.append({ ...record(0, "said once"), stream: "stderr" });
    let offset = 0;
    for (let i = 0; i < 100; i++) {
      await log.append(record(offset, "x".repeat(100)));
      offset += 100;
    }
    expect(readdirSync(path)).toHaveLength(2);
    await log.close();
    const again = openLog(path, 1024);
    expect(await again.offsets(1)).toEqual({ stdout: offset, stderr: "said once".length });
    expect(await again.offsets(2)).toEqual({ stdout: 0, stderr: 0 });
    expect((await texts(again)).length).toBeGreaterThanOrEqual(7);
    await again.remove();
    expect(() => readdirSync(path)).toThrow("ENOENT");
  });
});
