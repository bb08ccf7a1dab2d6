import { expect } from "vitest";
import type { ExecSession } from "../contracts/exec.ts";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { eventually, longEnough, within } from "./wait.ts";

/** Commands whose output is read, and input written, while they run. */
export function testApiExecStream({ test, fixture }: ApiContext): void {
  test("streams output as it comes, and the end after it", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const script = "echo one; read line; echo two $line >&2; exit 3";
    await using session = await api.execStream(id, { cmd: ["sh", "-c", script], stdin: true });
    const said = follow(session);
    await eventually("the first line", () => said.stdout === "one\n");
    await session.write(Buffer.from("in ü\n"));
    await said.done;
    expect(said).toMatchObject({ stdout: "one\n", stderr: "two in ü\n" });
    expect(await session.exit).toMatchObject({ exit_code: 3 });
  });

  test("carries bytes in and out unchanged, to the end of stdin", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    await using session = await api.execStream(id, { cmd: ["cat"], stdin: true });
    const bytes = Buffer.from(Array.from({ length: 512 * 1024 }, (_, i) => (i * 7) % 256));
    const received: Uint8Array[] = [];
    const reading = (async () => {
      for await (const { data } of session.output) received.push(data);
    })();
    await session.write(bytes);
    await session.end();
    await within(20_000, "the end", reading);
    expect(Buffer.concat(received).equals(bytes)).toBe(true);
    expect(await session.exit).toMatchObject({ exit_code: 0 });
  });

  test("gives a command without stdin an empty one", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    await using session = await api.execStream(id, { cmd: ["cat"] });
    const said = follow(session);
    await within(10_000, "the end", said.done);
    expect(await session.exit).toMatchObject({ exit_code: 0 });
  });

  test("gives a terminal that can be resized and interrupted", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const script = "stty size; read line; stty size; sleep 600";
    await using session = await api.execStream(id, {
      cmd: ["sh", "-c", script],
      tty: true,
      stdin: true,
      cols: 91,
      rows: 17,
    });
    const said = follow(session);
    await eventually("the first size", () => said.stdout.includes("17 91"));
    await session.resize(100, 30);
    await session.write(Buffer.from("go\r"));
    await eventually("the second size", () => said.stdout.includes("30 100"));
    await session.write(Buffer.from("\x03"));
    await within(10_000, "the end", said.done);
    expect(said.stderr).toBe("");
    expect(await session.exit).toMatchObject({ exit_code: 130, signal: "SIGINT" });
  });

  test("sends signals", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const script = "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.05; done";
    await using session = await api.execStream(id, { cmd: ["sh", "-c", script] });
    const said = follow(session);
    await eventually("readiness", () => said.stdout === "ready\n");
    await session.signal("SIGUSR1");
    await within(10_000, "the end", said.done);
    expect(said.stdout).toBe("ready\ncaught\n");
    expect(await session.exit).toMatchObject({ exit_code: 5 });
  });

  test("kills what it ran when it is let go", async () => {
    const { api, box, shell } = fixture();
    const { id } = await box();
    const session = await api.execStream(id, { cmd: ["sleep", "38001"] });
    session.exit.catch(() => {});
    await session[Symbol.asyncDispose]();
    await eventually("the command to be gone", async () => {
      const { stdout } = await shell(id, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '");
      return !stdout.includes("sleep 38001");
    });
  });

  test("ends a stream at its timeout", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const { stdout, exit } = await longEnough(
      async (timeoutMs) => {
        const cmd = ["sh", "-c", "echo a; sleep 600"];
        await using session = await api.execStream(id, { cmd, timeout: timeoutMs / 1000 });
        const said = follow(session);
        await within(20_000, "the end", said.done);
        return { stdout: said.stdout, exit: await session.exit };
      },
      ({ stdout }) => stdout !== "",
    );
    expect(stdout).toBe("a\n");
    expect(exit).toMatchObject({ exit_code: 124, timed_out: true });
  });

  test("tells a stream of a command that can't be run", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    await using session = await api.execStream(id, { cmd: ["no-such-program"] });
    const said = follow(session);
    await within(10_000, "the end", said.done);
    expect(said.stderr).toContain("no-such-program");
    expect(await session.exit).toMatchObject({ exit_code: 127 });
    await expectFailure(api.execStream(id, { cmd: [] }), "invalid_request");
  });

  test("holds back a command whose output nobody reads", async () => {
    const { api, box, shell } = fixture();
    const { id } = await box();
    const script = "dd if=/dev/zero bs=65536 count=2048 2>/dev/null; echo > /opt/through";
    await using session = await api.execStream(id, { cmd: ["sh", "-c", script] });
    // 128 MiB are more than all buffers on the way; other calls go on meanwhile.
    for (let i = 0; i < 10; i++) expect((await shell(id, "test -e /opt/through")).exit_code).toBe(1);
    let bytes = 0;
    for await (const { data } of session.output) bytes += data.length;
    expect(bytes).toBe(2048 * 65536);
    expect(await session.exit).toMatchObject({ exit_code: 0 });
  });
}

interface Said {
  stdout: string;
  stderr: string;
  done: Promise<void>;
}

/** Reads everything; whole characters only, so for tests whose chunks don't split them. */
function follow(session: ExecSession): Said {
  const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };
  const said: Said = { stdout: "", stderr: "", done: Promise.resolve() };
  said.done = (async () => {
    for await (const { stream, data } of session.output) {
      said[stream] += decoders[stream].decode(data, { stream: true });
    }
  })();
  return said;
}
