import { afterAll, beforeAll, expect, it } from "vitest";
import { longEnough } from "../../src/testing/wait.ts";
import { collect, readUntil, run, script, startGuest, type TestGuest } from "./harness.ts";

const tty = { cols: 80, rows: 24 };

let guest: TestGuest;
beforeAll(async () => {
  guest = await startGuest();
});
afterAll(() => guest[Symbol.asyncDispose]());

it("is a terminal of the given size on all three descriptors, and the controlling one", async () => {
  const result = await run(guest, {
    ...script("tty -s && test -t 1 && test -t 2 && stty size && echo to >/dev/tty && echo err >&2"),
    tty: { cols: 101, rows: 33 },
  });
  expect(result).toMatchObject({ exit_code: 0, stdout: "33 101\r\nto\r\nerr\r\n", stderr: "" });
});

it("can be resized", async () => {
  const session = await guest.client.spawn({
    ...script("trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"),
    tty,
  });
  const output = session.output[Symbol.asyncIterator]();
  await readUntil(output, "ready");
  await session.resize(132, 50);
  await readUntil(output, "50 132");
  expect((await session.exit).exit_code).toBe(0);
});

it("turns the byte of Ctrl-C into SIGINT for the foreground", async () => {
  const session = await guest.client.spawn({
    ...script("trap 'echo got INT; exit 130' INT; echo ready; while :; do sleep 0.05; done"),
    tty,
  });
  const output = session.output[Symbol.asyncIterator]();
  await readUntil(output, "ready");
  await session.write(Buffer.from([3]));
  await readUntil(output, "got INT");
  expect((await session.exit).exit_code).toBe(130);
});

it("gives a signal to the foreground group", async () => {
  const session = await guest.client.spawn({
    argv: ["sh", "-i"],
    env: { PS1: "$ ", PATH: "/usr/bin:/bin" },
    tty,
  });
  const output = session.output[Symbol.asyncIterator]();
  await readUntil(output, "$ ");
  await session.write(Buffer.from("sleep 1000; echo was $?\n"));
  await readUntil(output, "sleep 1000");
  // The shell has to have started it.
  await session.write(Buffer.from("\n"));
  for (;;) {
    await session.signal("SIGTERM");
    const step = await Promise.race([output.next(), new Promise<undefined>((r) => setTimeout(r, 100))]);
    if (step !== undefined && Buffer.from(step.value?.data ?? []).includes("was 143")) break;
  }
  await session.kill();
});

it("ends its input at end()", async () => {
  const session = await guest.client.spawn({ argv: ["cat"], env: {}, tty });
  await session.write(Buffer.from("line\n"));
  await session.end();
  expect(await collect(session)).toMatchObject({ exit_code: 0, stdout: "line\r\nline\r\n" });
  const unfinished = await guest.client.spawn({ argv: ["cat"], env: {}, tty });
  await unfinished.write(Buffer.from("part"));
  await unfinished.end();
  expect((await collect(unfinished)).stdout).toContain("part");
});

it("loses no output at the end", async () => {
  const result = await run(guest, { ...script("seq 1 20000"), tty });
  expect(result.stdout.split("\r\n")).toHaveLength(20_001);
});

it("belongs to the user", async () => {
  const result = await run(guest, {
    ...script('stat -c %U "$(tty)"; echo ok > "$(tty)"'),
    user: "nobody",
    tty,
  });
  expect(result.stdout).toBe("nobody\r\nok\r\n");
});

it("reports a missing command on the terminal", async () => {
  const result = await run(guest, { argv: ["no-such-program"], env: {}, tty });
  expect(result).toMatchObject({
    exit_code: 127,
    stdout: expect.stringContaining("no-such-program"),
    stderr: "",
  });
});

it("is ended by a timeout with what runs on it", async () => {
  const result = await longEnough(
    (timeoutMs) => run(guest, { ...script("trap '' HUP TERM; echo up; sleep 1000"), tty, timeoutMs }),
    ({ stdout }) => stdout !== "",
  );
  expect(result).toMatchObject({ exit_code: 124, timed_out: true, stdout: "up\r\n" });
});

it("signals go to the process group without a terminal", async () => {
  const session = await guest.client.spawn(
    script("trap 'echo hup; exit 9' HUP; echo ready; sleep 1000 & wait"),
  );
  const output = session.output[Symbol.asyncIterator]();
  await readUntil(output, "ready");
  await session.signal("SIGHUP");
  await readUntil(output, "hup");
  expect((await session.exit).exit_code).toBe(9);
});
