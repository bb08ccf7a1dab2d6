import { expect } from "vitest";
import type { SandboxApi } from "../contracts/api.ts";
import type { LogChunk, LogOptions } from "../contracts/logs.ts";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { eventually, within } from "./wait.ts";

/** Reads a log to its end. */
async function readLog(api: SandboxApi, id: string, options: LogOptions = {}) {
  const log = api.logs(id, options);
  const chunks: LogChunk[] = [];
  for await (const chunk of log) chunks.push(chunk);
  const bytes = (stream: string) =>
    Buffer.concat(chunks.filter((chunk) => chunk.stream === stream).map(({ data }) => data));
  return { chunks, end: await log.end, out: bytes("stdout"), err: bytes("stderr") };
}

/** What a main command writes. */
export function testApiLogs({ test, fixture }: ApiContext): void {
  test("keeps the main command's stdout and stderr, apart, also after its end", async () => {
    const { api, box } = fixture();
    const script = "echo out; echo err >&2; printf '\\377\\000\\303'; sleep 0.2; printf '\\274 end'; exit 3";
    const { id } = await box({ cmd: ["sh", "-c", script] });
    const before = Date.now();
    const live = readLog(api, id, { follow: true });
    expect(await api.wait(id)).toMatchObject({ exit_code: 3 });
    const kept = await readLog(api, id);
    for (const log of [await within(20_000, "the end", live), kept]) {
      expect(log.out.toString("latin1")).toBe("out\n\xff\0\xc3\xbc end");
      expect(log.err.toString()).toBe("err\n");
      expect(log.end).toBe("end");
      for (const { at } of log.chunks) expect(Math.abs(Date.parse(at) - before)).toBeLessThan(60_000);
    }
    expect((await readLog(api, id, { stream: "stderr" })).out.length).toBe(0);
    expect((await readLog(api, id, { follow: true, tail: 1, stream: "stdout" })).out.toString("latin1")).toBe(
      "\xff\0\xc3\xbc end",
    );
  });

  test("says why a main command could not be started", async () => {
    const { api, box } = fixture();
    const { id } = await box({ cmd: ["no-such-program"] });
    await api.wait(id);
    expect((await readLog(api, id)).err.toString()).toContain("no-such-program");
  });

  test("gives the last lines", async () => {
    const { api, box } = fixture();
    const { id } = await box({ cmd: ["sh", "-c", "seq 1000; sleep 0.1; seq 1001 2000"] });
    await api.wait(id);
    const lines = (from: number) => Array.from({ length: 2001 - from }, (_, i) => `${from + i}\n`).join("");
    expect((await readLog(api, id)).out.toString()).toBe(lines(1));
    for (const tail of [1, 2, 999, 1000, 1001, 1999, 2000, 5000]) {
      expect((await readLog(api, id, { tail })).out.toString()).toBe(lines(Math.max(1, 2001 - tail)));
    }
    expect((await readLog(api, id, { tail: 0 })).chunks).toEqual([]);
  });

  test("follows until a text has come, in parts too, or the time is up", async () => {
    const { api, box, shell } = fixture();
    // Again and again: who asks for no earlier lines may begin late.
    const script =
      "echo begin; until [ -e /tmp/go ]; do sleep 0.01; done; while :; do printf rea; sleep 0.1; printf 'dy now '; done";
    const { id } = await box({ cmd: ["sh", "-c", script] });
    expect(await readLog(api, id, { until: "ready", timeoutS: 0.1 })).toMatchObject({ end: "timeout" });
    expect(await readLog(api, id, { until: "begin" })).toMatchObject({ end: "marker" });
    const waiting = readLog(api, id, { until: "ready now", tail: 0 });
    const wrongStream = readLog(api, id, { until: "ready now", stream: "stderr" });
    await shell(id, "touch /tmp/go");
    expect(await within(20_000, "the text", waiting)).toMatchObject({ end: "marker" });
    expect(await readLog(api, id, { until: "ready now" })).toMatchObject({ end: "marker" });
    await api.stop(id, { timeoutMs: 0 });
    expect(await within(20_000, "the end", wrongStream)).toMatchObject({ end: "end" });
  });

  test("keeps what was said before a stop and what is said after a start", async () => {
    const { api, box } = fixture();
    const script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    const { id } = await box({ cmd: ["sh", "-c", script] });
    await readLog(api, id, { until: "up" });
    await api.stop(id);
    await eventually("the last words", async () => (await readLog(api, id)).out.toString() === "up\nbye\n");
    await api.start(id);
    const all = async () => (await readLog(api, id)).out.toString();
    await eventually("the second start", async () => (await all()) === "up\nbye\nup\n");
  });

  test("lets a reader go", async () => {
    const { api, box } = fixture();
    const { id } = await box({ cmd: ["sh", "-c", "while :; do echo x; sleep 0.01; done"] });
    for await (const { data } of api.logs(id, { follow: true })) if (data.length > 0) break;
    const leaving = new AbortController();
    const read = readLog(api, id, { follow: true, signal: leaving.signal });
    leaving.abort();
    await within(20_000, "the reader's end", expectFailure(read, "cancelled"));
  });

  test("has nothing to tell of a sandbox without a main command", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    expect(await within(20_000, "the end", readLog(api, id, { follow: true }))).toMatchObject({
      chunks: [],
      end: "end",
    });
    for (const options of [{ tail: -1 }, { tail: 0.5 }, { until: "" }, { timeoutS: -1 }]) {
      await expectFailure(readLog(api, id, options), "invalid_request");
    }
  });
}
