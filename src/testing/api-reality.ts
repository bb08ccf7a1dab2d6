import { expect } from "vitest";
import type { SandboxInfo } from "../contracts/sandbox.ts";
import type { ApiContext, ApiFixture } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { eventually, within } from "./wait.ts";

/** Statuses that follow what happens, whoever made it happen. */
export function testApiReality({ test, fixture, killGuest, freezeGuest }: ApiContext): void {
  test("stops when its main command ends, and tells its exit code", async () => {
    const { box } = fixture();
    const { id, cmd } = await box({ cmd: ["sh", "-c", "sleep 0.2; exit 7"] });
    expect(cmd).toEqual(["sh", "-c", "sleep 0.2; exit 7"]);
    const ended = await stopped(fixture(), id);
    expect(ended).toMatchObject({ exit_code: 7 });
    expect(ended).not.toHaveProperty("error");
    const { id: killed } = await box({ cmd: ["sh", "-c", "kill -TERM $$"] });
    expect(await stopped(fixture(), killed)).toMatchObject({ exit_code: 143 });
    const { id: missing } = await box({ cmd: ["no-such-program"] });
    expect(await stopped(fixture(), missing)).toMatchObject({ exit_code: 127 });
  });

  test("tells all who wait how the main command ended", async () => {
    const { api, box, shell } = fixture();
    const { id } = await box({ cmd: ["sh", "-c", "until [ -e /tmp/go ]; do sleep 0.01; done; exit 9"] });
    expect(await api.wait(id, { timeoutS: 0.05 })).toEqual({ exit_code: null, status: "running" });
    const waiting = [api.wait(id), api.wait(id, { timeoutS: 600 }), api.wait(id)];
    const leaving = new AbortController();
    const left = expectFailure(api.wait(id, { signal: leaving.signal }), "cancelled");
    leaving.abort();
    await left;
    await shell(id, "touch /tmp/go").catch(() => {}); // it may end under the command
    const end = { exit_code: 9, status: "stopped" };
    expect(await within(20_000, "the end", Promise.all(waiting))).toEqual([end, end, end]);
    expect(await api.wait(id)).toEqual(end);
    await expectFailure(api.wait(id, { timeoutS: -1 }), "invalid_request");
  });

  test("tells those who wait of an end without an exit code", async () => {
    const { api, box } = fixture();
    const { id, pid = 0 } = await box();
    const killed = api.wait(id);
    expect(await api.wait(id, { timeoutS: 0 })).toMatchObject({ status: "running" });
    killGuest(pid);
    expect(await within(20_000, "the end", killed)).toEqual({ exit_code: null, status: "stopped" });
    const { id: other } = await box();
    const removed = api.wait(other);
    expect(await api.wait(other, { timeoutS: 0 })).toMatchObject({ status: "running" });
    await api.remove(other);
    expect(await within(20_000, "the removal", removed)).toMatchObject({ exit_code: null });
  });

  test("runs the main command anew at each start", async () => {
    const { api, box, shell } = fixture();
    const script = 'echo "$A" >> /opt/runs; exec sleep 600';
    const { id } = await box({ cmd: ["sh", "-c", script], env: { A: "run" } });
    const runs = async () => (await shell(id, "cat /opt/runs 2>/dev/null; :")).stdout;
    await eventually("the first run", async () => (await runs()) === "run\n");
    expect(await api.stop(id)).toMatchObject({ status: "stopped", exit_code: 143 });
    expect(await api.start(id)).not.toHaveProperty("exit_code");
    await eventually("the second run", async () => (await runs()) === "run\nrun\n");
  });

  test("sees that a sandbox was killed, and starts it again with its files", async () => {
    const { api, box, shell } = fixture();
    const { id, pid = 0 } = await box();
    await shell(id, "echo kept > /opt/file");
    killGuest(pid);
    const ended = await stopped(fixture(), id);
    expect(ended.error).toBeTruthy();
    await expectFailure(api.exec(id, { cmd: ["true"] }), "sandbox_wrong_state");
    expect(await api.start(id)).not.toHaveProperty("error");
    expect((await shell(id, "cat /opt/file")).stdout).toBe("kept\n");
  });

  test("ends a command in bounded time when its sandbox is killed", async () => {
    const { api, box } = fixture();
    const { id, pid = 0 } = await box();
    const running = api.exec(id, { cmd: ["sleep", "600"] });
    const stream = await api.execStream(id, { cmd: ["sleep", "600"] });
    killGuest(pid);
    await within(20_000, "exec", expectFailure(running, "guest_failed", "sandbox_wrong_state"));
    await within(20_000, "exec stream", expectFailure(stream.exit, "guest_failed", "sandbox_wrong_state"));
  });

  test("ends a command in bounded time when its sandbox is stopped", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const running = api.exec(id, { cmd: ["sleep", "600"] }).then(
      (result) => result.exit_code,
      (error: { code?: unknown }) => error.code,
    );
    await fixture().shell(id, "true"); // by now the first one has begun, or is refused
    const stopping = api.stop(id);
    const during = api.exec(id, { cmd: ["sleep", "600"] }).then(
      (result) => result.exit_code,
      (error: { code?: unknown }) => error.code,
    );
    expect(await within(20_000, "stop", stopping)).toMatchObject({ status: "stopped" });
    // SIGTERM or SIGKILL ended it, or the connection was cut.
    const ends = [143, 137, "guest_failed", "sandbox_wrong_state"];
    expect(ends).toContain(await within(5000, "the command", running));
    expect(ends).toContain(await within(5000, "the late command", during));
  });

  test("gives up on a guest that hangs, and still stops and removes its sandbox", async () => {
    const { api, box } = fixture();
    const { id, pid = 0 } = await box();
    freezeGuest(pid);
    const stat = expectFailure(api.files.stat(id, "/"), "guest_failed");
    const stream = expectFailure(api.execStream(id, { cmd: ["true"], timeout: 0.5 }), "guest_failed");
    const [error] = await within(25_000, "stat, and the start of a stream", Promise.all([stat, stream]));
    expect(error.hint).toBeTruthy();
    await within(20_000, "stop", api.stop(id, { timeoutMs: 200 }));
    expect(await api.start(id)).toMatchObject({ status: "running" });
    freezeGuest((await api.get(id)).pid ?? 0);
    await within(20_000, "remove", api.remove(id));
  });

  test("tells what a running sandbox uses", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    await using busy = await api.execStream(id, { cmd: ["sh", "-c", "while :; do :; done"] });
    busy.exit.catch(() => {});
    // It gets no processor at once where all are taken.
    const stats = await eventually("processor time", async () => {
      const told = await api.stats(id);
      return told.cpu_percent > 0 && told;
    });
    expect(stats.pid_count).toBeGreaterThanOrEqual(2);
    expect(stats.memory_usage).toBeGreaterThan(0);
    expect(Math.abs(Date.parse(stats.timestamp) - Date.now())).toBeLessThan(60_000);
  });
}

async function stopped({ api }: ApiFixture, id: string): Promise<SandboxInfo> {
  return await eventually("the sandbox to be stopped", async () => {
    const info = await api.get(id);
    return info.status === "stopped" && info.stopped_at !== undefined && info;
  });
}
