import { once } from "node:events";
import { copyFile, writeFile } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { connectAgent } from "../../../src/engine/ssh-agent/agent-socket.ts";
import { type FilterOptions, serveAgent } from "../../../src/engine/ssh-agent/filter.ts";
import { encodeString, messageTypes } from "../../../src/engine/ssh-agent/messages.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { publicKey, startSshAgent, type TestAgent } from "../../../src/testing/ssh-agent.ts";

type Signature = Parameters<FilterOptions["onSignature"]>[0];

let agent: TestAgent;
let signatures: Signature[];
let closing: (() => void)[];
beforeEach(async () => {
  agent = await startSshAgent(2);
  signatures = [];
  closing = [];
});
afterEach(async () => {
  for (const close of closing) close();
  await agent[Symbol.asyncDispose]();
});

/** A socket at which programs meet the filter, as inside a sandbox. */
async function filtered(options: Partial<FilterOptions> = {}): Promise<string> {
  const path = join(agent.dir, `filter${closing.length}.sock`);
  const programs = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (program) => {
    programs.add(program.on("error", () => {}));
    serveAgent(program, {
      connect: () => connectAgent(agent.socket),
      onSignature: (signature) => signatures.push(signature),
      ...options,
    }).catch(() => program.destroy());
  }).listen(path);
  await once(server, "listening");
  closing.push(() => {
    for (const program of programs) program.destroy();
    server.close();
  });
  return path;
}

const list = async (socket: string) =>
  (await agent.run(["ssh-add", "-l"], socket)).split("\n").flatMap((line) => line.split(" ")[1] ?? []);

/** Signs a file with a key that only the agent has, and checks the signature. */
async function sign(socket: string, key: number): Promise<string> {
  const file = join(agent.dir, "text");
  await writeFile(file, "words");
  // Without the private key beside it ssh-keygen has to ask the agent.
  const pub = join(agent.dir, `only${key}.pub`);
  await copyFile(join(agent.dir, `key${key}.pub`), pub);
  await agent.run(["ssh-keygen", "-Y", "sign", "-q", "-n", "test", "-f", pub, file], socket);
  return await agent.run([
    "sh",
    "-c",
    'ssh-keygen -Y check-novalidate -n test -s "$0.sig" < "$0"; rm "$0.sig"',
    file,
  ]);
}

const failureOf = (work: Promise<unknown>) =>
  work.then(
    () => "",
    (error: { stdout?: string; stderr?: string }) => `${error.stdout}${error.stderr}`,
  );

/** Sends whole messages as a program would, and gives the type of each answer. */
async function say(socket: string, ...messages: Uint8Array[]): Promise<number[]> {
  const program = connect(socket);
  for (const message of messages) program.write(encodeString(message));
  const types: number[] = [];
  program.on("readable", () => {
    for (let head = program.read(4); head; head = program.read(4))
      types.push(program.read(head.readUInt32BE(0))?.[0]);
  });
  await expect.poll(() => types.length).toBe(messages.length);
  program.destroy();
  return types;
}

const signRequest = (blob: Uint8Array, data: Uint8Array, rest: Uint8Array) =>
  Buffer.concat([Buffer.from([messageTypes.signRequest]), encodeString(blob), encodeString(data), rest]);

const blobOf = async (key: number) =>
  Buffer.from((await publicKey(agent, key)).split(" ")[1] ?? "", "base64");

describe("what a sandbox has of an SSH agent", () => {
  it("shows keys and signs, and tells of each signature", async () => {
    const socket = await filtered();
    expect(await list(socket)).toEqual(agent.fingerprints);
    expect(await sign(socket, 1)).toContain("Good");
    expect(signatures).toEqual([{ key: agent.fingerprints[1], allowed: true, reason: "signed" }]);
    expect(JSON.stringify(signatures)).not.toContain("words");
  });

  it("refuses whatever changes the agent, which works without the filter", async () => {
    const socket = await filtered();
    const key = join(agent.dir, "new");
    await agent.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]);
    for (const args of [["-D"], ["-d", join(agent.dir, "key0")], ["-q", key], ["-q", "-t", "60", key]]) {
      expect(await failureOf(agent.run(["ssh-add", ...args], socket)), args.join(" ")).not.toBe("");
    }
    expect(await list(agent.socket)).toEqual(agent.fingerprints);
    // Locking asks for a password on a terminal, so that its message is said by hand; as are all others that there are.
    const lock = Buffer.concat([Buffer.from([22]), encodeString(Buffer.from("pw"))]);
    expect(await say(socket, lock)).toEqual([messageTypes.failure]);
    const others = Array.from({ length: 256 }, (_, type) => type).filter(
      (type) => type !== messageTypes.requestIdentities,
    );
    const answers = await say(socket, ...others.map((type) => Buffer.from([type, 0, 0, 0, 0])));
    expect(new Set(answers)).toEqual(new Set([messageTypes.failure]));
    expect(await list(agent.socket)).toEqual(agent.fingerprints);
    expect(await say(agent.socket, lock)).toEqual([messageTypes.success]);
    expect(await failureOf(list(agent.socket))).toMatch(/no identities|refused/);
  });

  it("shows and uses the keys alone that it may", async () => {
    const [, second = ""] = agent.fingerprints;
    const socket = await filtered({ keys: [second] });
    expect(await list(socket)).toEqual([second]);
    expect(await sign(socket, 1)).toContain("Good");
    // OpenSSH's own programs don't ask for a key that isn't listed.
    expect(await failureOf(sign(socket, 0))).not.toBe("");
    const request = signRequest(await blobOf(0), Buffer.from("x"), Buffer.alloc(4));
    expect(await say(socket, request)).toEqual([messageTypes.failure]);
    expect(await say(agent.socket, request)).toEqual([messageTypes.signResponse]);
    expect(signatures).toEqual([
      { key: second, allowed: true, reason: "signed" },
      { key: agent.fingerprints[0], allowed: false, reason: "the key is not one that the sandbox may use" },
    ]);
  });

  it("takes a certificate for its key", async () => {
    await agent.run(["ssh-keygen", "-q", "-s", "key0", "-I", "id", "-n", "me", "key1.pub"]);
    for (const type of ["rsa", "ecdsa"]) {
      await agent.run(["ssh-keygen", "-q", "-t", type, "-N", "", "-f", type]);
      await agent.run(["ssh-keygen", "-q", "-s", "key0", "-I", "id", "-n", "me", `${type}.pub`]);
      await agent.run(["ssh-add", "-q", type]);
    }
    await agent.run(["ssh-add", "-q", "key1"]);
    const all = await list(agent.socket);
    expect(all).toHaveLength(7);
    for (const key of new Set(all)) {
      const expected = all.filter((one) => one === key);
      expect(await list(await filtered({ keys: [key] })), key).toEqual(expected);
    }
  });

  it("is bounded: long, broken and endless messages end the connection, and the agent hears nothing", async () => {
    const socket = await filtered();
    const end = async (bytes: Uint8Array) => {
      const program = connect(socket).on("error", () => {});
      program.write(bytes);
      program.resume();
      await once(program, "close");
    };
    await end(Buffer.from([0xff, 0xff, 0xff, 0xff]));
    await end(Buffer.from([0, 4, 0, 1]));
    await end(Buffer.alloc(4));
    // What comes in pieces is waited for, while others are served.
    const slow = connect(socket);
    for (const byte of encodeString(Buffer.from([messageTypes.requestIdentities]))) {
      slow.write(Buffer.from([byte]));
      expect(await list(socket)).toEqual(agent.fingerprints);
    }
    expect((await once(slow, "data"))[0][4]).toBe(messageTypes.identitiesAnswer);
    slow.destroy();
    const blob = await blobOf(0);
    const data = Buffer.from("x");
    const flags = Buffer.alloc(4);
    expect(
      await say(
        socket,
        signRequest(blob, data, flags),
        signRequest(blob, data, flags.subarray(1)),
        signRequest(blob, data, Buffer.alloc(5)),
        Buffer.from([messageTypes.requestIdentities, 0]),
        Buffer.concat([Buffer.from([27]), encodeString(Buffer.from("query"))]),
        Buffer.concat([Buffer.from([27]), encodeString(Buffer.from("session-bind@openssh.com"))]),
      ),
    ).toEqual([14, 5, 5, 5, 5, 5]);
  });

  it("finds an agent that was started again, and says when there is none", async () => {
    const socket = await filtered();
    expect(await list(socket)).toEqual(agent.fingerprints);
    await agent.restart();
    await agent.run(["ssh-add", "-q", "key1"]);
    expect(await list(socket)).toEqual([agent.fingerprints[1]]);
    const gone = await filtered({ connect: () => connectAgent(join(agent.dir, "gone")) });
    expect(await failureOf(list(gone))).toContain("agent refused operation");
    await expectFailure(connectAgent(join(agent.dir, "gone")), "invalid_request");
    const failure = await expectFailure(connectAgent(join(agent.dir, "key0")), "invalid_request");
    expect(failure.message).toContain("is no socket");
  });

  it("waits for no agent when its sandbox has stopped, and takes nothing odd from one", async () => {
    let answer: Uint8Array | undefined;
    const seen: Socket[] = [];
    const odd = createServer((socket) => {
      seen.push(socket.on("error", () => {}));
      socket.on("data", () => answer && socket.write(encodeString(answer)));
    }).listen(join(agent.dir, "odd.sock"));
    closing.push(() => odd.close());
    const socket = await filtered({ connect: () => connectAgent(join(agent.dir, "odd.sock")) });
    const program = connect(socket);
    program.write(encodeString(Buffer.from([messageTypes.requestIdentities])));
    await expect.poll(() => seen.length).toBe(1);
    const gone = once(seen[0] as Socket, "close");
    closing.pop()?.();
    await gone;
    program.destroy();
    const again = await filtered({ connect: () => connectAgent(join(agent.dir, "odd.sock")) });
    for (const wrong of [
      Buffer.from([messageTypes.identitiesAnswer, 0, 0, 0, 9]),
      Buffer.from([messageTypes.identitiesAnswer, 0xff, 0xff, 0xff, 0xff]),
      Buffer.from([messageTypes.signResponse]),
      Buffer.from([99]),
    ]) {
      answer = wrong;
      expect(await say(again, Buffer.from([messageTypes.requestIdentities]))).toEqual([messageTypes.failure]);
    }
    for (const one of seen) one.destroy();
  });
});
