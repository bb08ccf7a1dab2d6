import { expect } from "vitest";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { eventually, within } from "./wait.ts";

/** A main command that counts, so that one can see whether it runs. */
const counting = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /opt/count; sleep 0.01; done"];

/** Freezing and thawing. */
export function testApiPause({ test, fixture, unless, killGuest }: ApiContext): void {
  const paused = { unless: unless("pause") };

  test(
    "pauses a sandbox, whose clock stands still, and resumes it",
    async () => {
      const { api, box, shell } = fixture();
      const { id } = await box({ cmd: counting });
      const count = async () => Number((await shell(id, "cat /opt/count 2>/dev/null; :")).stdout);
      await eventually("the counter to run", async () => (await count()) > 3);
      expect(await api.pause(id)).toMatchObject({ id, status: "paused" });
      expect(await api.pause(id)).toMatchObject({ status: "paused" });
      expect(await api.get(id)).toMatchObject({ status: "paused" });
      const cpu = async () => (await api.stats(id)).cpu_percent;
      await cpu();
      expect(await cpu()).toBeLessThan(1);
      expect(await api.resume(id)).toMatchObject({ id, status: "running" });
      expect(await api.resume(id)).toMatchObject({ status: "running" });
      const before = await count();
      await eventually("the counter to go on", async () => (await count()) > before + 3);
    },
    paused,
  );

  test(
    "refuses to work in a paused sandbox, at once",
    async () => {
      const { api, box } = fixture();
      const { id } = await box();
      await api.pause(id);
      const calls = [
        api.exec(id, { cmd: ["true"] }),
        api.execStream(id, { cmd: ["true"] }),
        api.files.read(id, "/etc/passwd"),
        api.files.write(id, "/x", Buffer.from("x")),
        api.files.list(id, "/"),
        api.start(id),
      ];
      for (const call of calls) call.catch(() => {});
      for (const call of calls) {
        const error = await within(5000, "the refusal", expectFailure(call, "sandbox_wrong_state"));
        expect(error.hint).toContain("resume");
      }
    },
    paused,
  );

  test(
    "lets a command go on where it was paused",
    async () => {
      const { api, box } = fixture();
      const { id } = await box();
      const session = await api.execStream(id, { cmd: ["cat"], stdin: true });
      await using _ = session;
      await api.pause(id);
      await session.write(Buffer.from("kept"));
      await session.end();
      await api.resume(id);
      const chunks: Uint8Array[] = [];
      for await (const { data } of session.output) chunks.push(data);
      expect(Buffer.concat(chunks).toString()).toBe("kept");
      expect(await session.exit).toMatchObject({ exit_code: 0 });
    },
    paused,
  );

  test(
    "stops and removes a paused sandbox",
    async () => {
      const { api, box, shell } = fixture();
      const { id } = await box({
        cmd: ["sh", "-c", "trap 'echo bye > /opt/bye; exit 3' TERM; while :; do sleep 0.05; done"],
      });
      // The trap is set by the time that a child runs.
      await eventually(
        "the main command",
        async () => (await shell(id, "pgrep sleep || cat /proc/[0-9]*/comm")).stdout !== "",
      );
      await shell(id, "echo kept > /opt/file");
      await api.pause(id);
      expect(await within(20_000, "stop", api.stop(id, { timeoutMs: 5000 }))).toMatchObject({
        status: "stopped",
      });
      await expectFailure(api.pause(id), "sandbox_wrong_state");
      await expectFailure(api.resume(id), "sandbox_wrong_state");
      expect(await api.start(id)).toMatchObject({ status: "running" });
      expect((await shell(id, "cat /opt/file")).stdout).toBe("kept\n");
      await api.pause(id);
      expect(await within(20_000, "stop", api.stop(id, { timeoutMs: 0 }))).toMatchObject({
        status: "stopped",
      });
      await api.start(id);
      await api.pause(id);
      await within(20_000, "remove", api.remove(id));
      expect(await api.list()).toEqual([]);
    },
    paused,
  );

  test(
    "removes a paused sandbox whose time has come",
    async () => {
      const { api, box } = fixture();
      const { id } = await box({ timeout: 600 });
      await api.pause(id);
      await api.extend(id, 1);
      await eventually("the expiry", async () => (await api.list()).length === 0);
    },
    paused,
  );

  test(
    "sees that a sandbox was killed when it was paused",
    async () => {
      const { api, box } = fixture();
      const { id, pid = 0 } = await box();
      await api.pause(id);
      killGuest(pid);
      // On cgroup v1 a frozen process dies when it goes on.
      await api.resume(id).catch(() => {});
      const ended = await eventually("the end", async () => {
        const info = await api.get(id);
        return info.status === "stopped" && info;
      });
      expect(ended.error).toBeTruthy();
    },
    paused,
  );

  if (unless("pause")) {
    test("refuses to pause where the runtime can't", async () => {
      const { api, box } = fixture();
      const { id } = await box();
      await expectFailure(api.pause(id), "unsupported");
      expect(await api.get(id)).toMatchObject({ status: "running" });
      expect(await api.resume(id)).toMatchObject({ status: "running" });
    });
  }
}
