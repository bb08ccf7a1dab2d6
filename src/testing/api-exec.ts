import { expect } from "vitest";
import type { ExecRequest } from "../contracts/exec.ts";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { eventually, longEnough, within } from "./wait.ts";

const MIB = 1024 ** 2;

/** Commands that are run to their end. */
export function testApiExec({ test, fixture }: ApiContext): void {
  test("runs a command and tells all of it", async () => {
    const { box, shell } = fixture();
    const { id } = await box();
    const result = await shell(id, "echo out; echo err >&2; exit 7");
    expect(result).toMatchObject({ exit_code: 7, stdout: "out\n", stderr: "err\n" });
    expect(result.duration_ms).toBeGreaterThan(0);
    for (const absent of ["stdout_base64", "stdout_truncated", "timed_out", "oom_killed", "signal"]) {
      expect(result).not.toHaveProperty(absent);
    }
  });

  test("never makes a shell line of a command", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const args = ["", "a b", "$HOME", "`id`", "$(id)", "'; id; '", "new\nline", "ü", "*", "--"];
    const { stdout } = await api.exec(id, { cmd: ["printf", "[%s]", ...args] });
    expect(stdout).toBe(args.map((arg) => `[${arg}]`).join(""));
  });

  test("runs where and as whom it is told", async () => {
    const { box, shell } = fixture();
    const { id } = await box();
    expect((await shell(id, "pwd; id -u", { workdir: "/usr" })).stdout).toBe("/usr\n0\n");
    await expectFailure(shell(id, "pwd", { workdir: "/no/such/directory" }), "file_not_found");
    await expectFailure(shell(id, "pwd", { user: "no-such-user" }), "invalid_request");
  });

  test("tells what is missing, what can't be run, and what a signal ended", async () => {
    const { api, box, shell } = fixture();
    const { id } = await box();
    const missing = await api.exec(id, { cmd: ["no-such-program", "arg"] });
    expect(missing).toMatchObject({ exit_code: 127, stdout: "" });
    expect(missing.stderr).toContain("no-such-program");
    expect(await api.exec(id, { cmd: ["/etc/passwd"] })).toMatchObject({ exit_code: 126 });
    expect(await api.exec(id, { cmd: ["/usr"] })).toMatchObject({ exit_code: 126 });
    expect(await api.exec(id, { cmd: [""] })).toMatchObject({ exit_code: 127 });
    expect(await shell(id, "kill -9 $$")).toMatchObject({ exit_code: 137, signal: "SIGKILL" });
    expect(await shell(id, "kill -9 $$")).not.toHaveProperty("oom_killed");
  });

  test("feeds text to stdin, whether it is read or not", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const stdin = "zeile ü\n".repeat(50_000);
    expect((await api.exec(id, { cmd: ["cat"], stdin })).stdout).toBe(stdin);
    expect(await api.exec(id, { cmd: ["true"], stdin })).toMatchObject({ exit_code: 0 });
    expect((await api.exec(id, { cmd: ["wc", "-c"], stdin: "" })).stdout.trim()).toBe("0");
    expect((await api.exec(id, { cmd: ["wc", "-c"] })).stdout.trim()).toBe("0");
  });

  test("brings any bytes out", async () => {
    const { box, shell } = fixture();
    const { id } = await box();
    const result = await shell(id, "printf '\\377\\000A'; printf '\\303' >&2; printf '\\274' >&2");
    expect(result.stdout).toBe("\uFFFD\0A");
    expect(result.stdout_base64).toBe(Buffer.from([0xff, 0, 0x41]).toString("base64"));
    expect(result.stderr).toBe("ü");
    expect(result).not.toHaveProperty("stderr_base64");
  });

  test("kills a command's whole tree at its timeout, and keeps what was said", async () => {
    const { box, shell } = fixture();
    const { id } = await box();
    const script = "echo begun; (setsid sleep 35001 &); sleep 35002 & sleep 35003";
    const result = await longEnough(
      (timeoutMs) => within(20_000, "the timeout", shell(id, script, { timeout: timeoutMs / 1000 })),
      ({ stdout }) => stdout !== "",
    );
    expect(result).toMatchObject({ exit_code: 124, timed_out: true, stdout: "begun\n" });
    await eventually("the tree to be gone", async () => {
      const { stdout } = await shell(id, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '");
      return !stdout.includes("sleep 3500");
    });
  });

  test("bounds endless output, and says that it was cut", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const small = { timeout: 1, max_output: 1000 };
    const yes = await api.exec(id, { cmd: ["yes"], ...small });
    expect(yes).toMatchObject({ timed_out: true, stdout_truncated: true });
    expect(yes.stdout).toBe("y\n".repeat(500));
    expect(yes).not.toHaveProperty("stderr_truncated");
    const zeros = await api.exec(id, { cmd: ["cat", "/dev/zero"], timeout: 2 });
    expect(zeros).toMatchObject({ stdout_truncated: true });
    expect(zeros.stdout.length).toBe(8 * MIB);
    const none = await api.exec(id, { cmd: ["echo", "x"], max_output: 0 });
    expect(none).toMatchObject({ exit_code: 0, stdout: "", stdout_truncated: true });
    const exact = await api.exec(id, { cmd: ["printf", "12345"], max_output: 5 });
    expect(exact.stdout).toBe("12345");
    expect(exact).not.toHaveProperty("stdout_truncated");
  });

  test("ends the command of a caller who has given up", async () => {
    const { api, box, shell } = fixture();
    const { id } = await box();
    const stop = new AbortController();
    const call = api.exec(
      id,
      { cmd: ["sh", "-c", "echo > /opt/begun; sleep 36001"] },
      { signal: stop.signal },
    );
    call.catch(() => {});
    await eventually("the command", async () => (await shell(id, "test -e /opt/begun")).exit_code === 0);
    stop.abort();
    await within(10_000, "the call", expectFailure(call, "cancelled"));
    await eventually("the command to be gone", async () => {
      const { stdout } = await shell(id, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '");
      return !stdout.includes("sleep 36001");
    });
    await expectFailure(api.exec(id, { cmd: ["true"] }, { signal: AbortSignal.abort() }), "cancelled");
  });

  test("runs commands side by side", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const numbers = Array.from({ length: 20 }, (_, i) => String(i));
    const results = await Promise.all(numbers.map((number) => api.exec(id, { cmd: ["echo", number] })));
    expect(results.map((result) => result.stdout)).toEqual(numbers.map((number) => `${number}\n`));
  });

  test("does not wait for what a command leaves in the background", async () => {
    const { box, shell } = fixture();
    const { id } = await box();
    const result = await within(10_000, "the end", shell(id, "sleep 37001 & echo done"));
    expect(result).toMatchObject({ exit_code: 0, stdout: "done\n" });
  });

  test("refuses commands that make no sense", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const nonsense: ExecRequest[] = [
      { cmd: [] },
      { cmd: ["a\0b"] },
      { cmd: ["true"], env: { "": "x" } },
      { cmd: ["true"], workdir: "relative" },
      { cmd: ["true"], timeout: -1 },
      { cmd: ["true"], timeout: 1e9 },
      { cmd: ["true"], max_output: 1e12 },
    ];
    for (const request of nonsense) await expectFailure(api.exec(id, request), "invalid_request");
  });
}
