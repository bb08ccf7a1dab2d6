import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { ExecSession } from "../../src/contracts/exec.ts";
import { type Engine, openEngine } from "../../src/engine/engine.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { openFakeRuntime } from "../../src/runtimes/fake/runtime.ts";
import { expectFailure } from "../../src/testing/failures.ts";
import { startSshAgent, type TestAgent } from "../../src/testing/ssh-agent.ts";
import { removeStateDir } from "./support/engine.ts";
import { tempDir } from "./support/temp-dir.ts";

const aws = { AccessKeyId: "ASIATEST", SecretAccessKey: "secret-0123456789" };
const askAws = `exec curl -sS -m 20 -H "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" "$AWS_CONTAINER_CREDENTIALS_FULL_URI"`;

let dir: ReturnType<typeof tempDir>;
let engine: Engine;
let agent: TestAgent;
const open = async () => {
  const runtime = await openFakeRuntime({ stateDir: dir.path, ownerId: "testtest", log: silentLogger });
  engine = await openEngine({
    stateDir: dir.path,
    runtimes: { fake: runtime },
    defaultRuntime: "fake",
    log: silentLogger,
  });
};
beforeEach(async () => {
  dir = tempDir();
  agent = await startSshAgent();
  await open();
});
afterEach(async () => {
  for (const { id } of await engine.list()) await engine.remove(id);
  await engine.close();
  await removeStateDir(dir.path);
  await agent[Symbol.asyncDispose]();
});
const sh = async (id: string, script: string) =>
  (await engine.exec(id, { cmd: ["sh", "-c", script] })).stdout;

describe("services of the host", () => {
  it("answer though a sandbox floods them with connections that say little or nothing", async () => {
    const { id } = await engine.create({
      ssh_agent: { socket: agent.socket },
      credentials: { aws },
      network_mode: "filtered",
    });
    const flood = `use IO::Socket::INET; use IO::Socket::UNIX; my @s;
      for (1 .. 150) {
        for my $s (IO::Socket::UNIX->new(Peer => $ENV{SSH_AUTH_SOCK}), IO::Socket::INET->new("127.0.0.1:3131"), IO::Socket::INET->new("127.0.0.1:3128")) {
          syswrite $s, "x" if $s && $_ % 2; push @s, $s } }
      $| = 1; print "flooded\\n"; sleep 100`;
    const session = await engine.execStream(id, { cmd: ["perl", "-e", flood] });
    expect(await firstWords(session)).toBe("flooded\n");
    expect(await sh(id, "ssh-add -l")).toContain(agent.fingerprints[0]);
    expect(JSON.parse(await sh(id, askAws))).toMatchObject({ AccessKeyId: "ASIATEST" });
    // One that floods is no way to keep another from its own.
    const { id: other } = await engine.create({ credentials: { aws } });
    expect(JSON.parse(await sh(other, askAws))).toMatchObject({ AccessKeyId: "ASIATEST" });
    await session.signal("SIGKILL");
  });

  it("are there again with the next engine, whose clients' connections go on", async () => {
    const { id } = await engine.create({ ssh_agent: { socket: agent.socket }, credentials: { aws } });
    await engine.close();
    await open();
    expect(await sh(id, "ssh-add -l")).toContain(agent.fingerprints[0]);
    expect(JSON.parse(await sh(id, askAws))).toMatchObject({ SecretAccessKey: "secret-0123456789" });
  });

  it("are there when the main command begins", async () => {
    const cmd = ["sh", "-c", `ssh-add -l; ${askAws}`];
    const { id } = await engine.create({ ssh_agent: { socket: agent.socket }, credentials: { aws }, cmd });
    for (let starts = 1; starts <= 2; starts++) {
      await engine.wait(id);
      const said: string[] = [];
      for await (const { data } of engine.logs(id)) said.push(Buffer.from(data).toString());
      const text = said.join("");
      expect(text.split("test key 0")).toHaveLength(starts + 1);
      expect(text.split("ASIATEST")).toHaveLength(starts + 1);
      if (starts === 1) await engine.start(id);
    }
  });

  it("take no port that a program inside has", async () => {
    const { id } = await engine.create({});
    const listener = `use IO::Socket::INET; $| = 1; my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1:3131", Listen => 1, ReuseAddr => 1) or die; print "here\\n"; sleep 100`;
    const session = await engine.execStream(id, { cmd: ["perl", "-e", listener] });
    expect(await firstWords(session)).toBe("here\n");
    const failure = await expectFailure(engine.credentials.put(id, "aws", aws), "port_in_use");
    expect(failure.message).toContain("3131");
    expect(await engine.credentials.list(id)).toEqual([]);
    await session.signal("SIGKILL");
    await session.exit;
    await expect
      .poll(() =>
        engine.credentials.put(id, "aws", aws).then(
          () => true,
          () => false,
        ),
      )
      .toBe(true);
    expect(JSON.parse(await sh(id, askAws))).toMatchObject({ AccessKeyId: "ASIATEST" });
    await expectFailure(engine.ports.add(id, { sandbox_port: 3131 }), "forbidden");
    await expectFailure(engine.dial(id, 3131), "forbidden");
  });
});

/** What a command says first; the rest is let go by. */
async function firstWords(session: ExecSession): Promise<string> {
  let first = "";
  await new Promise<void>((resolve) => {
    (async () => {
      for await (const { data } of session.output) {
        if (first === "") first = Buffer.from(data).toString();
        resolve();
      }
      resolve();
    })().catch(() => resolve());
  });
  return first;
}
