import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ask, inside, startCapturing } from "./capture-harness.ts";
import {
  type Answer,
  codes,
  nameBytes,
  parseAnswer,
  type QueryOptions,
  query,
  types,
  words,
} from "./dns-messages.ts";
import type { TestGuest } from "./harness.ts";

let guest: TestGuest;
beforeAll(async () => {
  guest = await startCapturing();
});
afterAll(() => guest?.[Symbol.asyncDispose]());

async function lookUp(...names: (string | [name: string, options: QueryOptions])[]): Promise<Answer[]> {
  const queries = names.map((one) => (typeof one === "string" ? query(one) : query(...one)));
  const answers = await ask(
    guest,
    queries.map((bytes) => ({ bytes })),
  );
  return answers.map((answer, i) => {
    if (!answer) throw new Error(`no answer to ${names[i]}`);
    return parseAnswer(answer);
  });
}

it("gives each name an address of its own, the same each time, and tells it back", async () => {
  const [first, again, other, upper] = await lookUp(
    "example.com",
    "example.com",
    "example.org",
    "EXAMPLE.com",
  );
  expect(first).toMatchObject({ id: 0x1234, code: codes.ok, question: "example.com", ttl: 60 });
  expect(first?.answers).toEqual([expect.stringMatching(/^198\.19\.\d+\.\d+$/)]);
  expect(again?.answers).toEqual(first?.answers);
  expect(other?.answers).not.toEqual(first?.answers);
  // The question is repeated as it was written (RFC 5452, and what 0x20 encoding rests on).
  expect(upper).toMatchObject({ answers: first?.answers, question: "EXAMPLE.com" });
  const reversed = `${first?.answers[0]?.split(".").reverse().join(".")}.in-addr.arpa`;
  const [back, unknown] = await lookUp(
    [reversed, { type: types.PTR }],
    ["255.255.19.198.in-addr.arpa", { type: types.PTR }],
  );
  expect(back).toMatchObject({ code: codes.ok, answers: ["example.com"] });
  expect(unknown).toMatchObject({ code: codes.noName, answers: [] });
});

it("says that names have nothing but an IPv4 address, which is no reason not to ask for that", async () => {
  const kinds = [types.AAAA, types.HTTPS, types.TXT, 33, 64, 6];
  const answers = await lookUp(...kinds.map((type) => ["example.com", { type }] as [string, QueryOptions]));
  for (const answer of answers) expect(answer).toMatchObject({ code: codes.ok, answers: [] });
  const [any] = await lookUp(["example.com", { type: types.ANY }]);
  expect(any?.answers).toHaveLength(1);
});

it("knows the names of this machine, and that some names are nobody's", async () => {
  const { hostname } = await inside<{ hostname: string }>(
    guest,
    `print({ hostname: require("node:os").hostname() })`,
  );
  const [local, below, local6, own, backwards, ...nobody] = await lookUp(
    "localhost",
    "db.LocalHost",
    ["localhost", { type: types.AAAA }],
    hostname,
    ["1.0.0.127.in-addr.arpa", { type: types.PTR }],
    "some.invalid",
    "10.1.2.3",
    "a.0",
    "with space.example",
    "null\0.example",
    "8.8.8.8.in-addr.arpa",
  );
  expect(local?.answers).toEqual(["127.0.0.1"]);
  expect(below?.answers).toEqual(["127.0.0.1"]);
  expect(local6?.answers).toEqual([`${"0".repeat(31)}1`]);
  expect(own?.answers).toEqual(["198.18.0.1"]);
  expect(backwards?.answers).toEqual(["localhost"]);
  for (const answer of nobody) expect(answer).toMatchObject({ code: codes.noName, answers: [] });
});

it("answers EDNS, and refuses a version of it that does not exist", async () => {
  const [plain, extended, future] = await lookUp("e.com", ["e.com", { edns: 0 }], ["e.com", { edns: 1 }]);
  expect(plain?.udpSize).toBeUndefined();
  expect(extended).toMatchObject({ code: codes.ok, udpSize: 1232, answers: plain?.answers });
  expect(future).toMatchObject({ code: 16, udpSize: 1232, answers: [] });
});

describe("what is malformed", () => {
  const long = "a".repeat(63);
  const formatErrors: Record<string, Buffer> = {
    "no question": query(Buffer.alloc(0), { counts: [0, 0, 0, 0] }),
    "two questions": query("a.com", { counts: [2, 0, 0, 0] }),
    "an answer in a question": query("a.com", { counts: [1, 1, 0, 0] }),
    "a record that is not there": query("a.com", { counts: [1, 0, 0, 1] }),
    "more records than fit": query("a.com", { counts: [1, 0, 0, 65_535], edns: 0 }),
    "two OPT records": Buffer.concat([
      query("a.com", { edns: 0, counts: [1, 0, 0, 2] }),
      query("a.com", { edns: 0 }).subarray(-11),
    ]),
    "an OPT record with a name": Buffer.concat([
      query("a.com", { counts: [1, 0, 0, 1] }),
      nameBytes("a"),
      words(41, 1232, 0, 0, 0),
    ]),
    "a name that refers to itself": query(Buffer.from([0xc0, 12])),
    "a name that goes on behind a reference": query(Buffer.from([1, 97, 0xc0, 12])),
    "a label of a reserved kind": query(Buffer.from([0x40, 97, 0])),
    "a name without an end": Buffer.concat([words(1, 0x100, 1, 0, 0, 0), Buffer.from([5, 97])]),
    "a name of more than 253 characters": query(`${long}.${long}.${long}.${long}`),
    "a question without a class": Buffer.concat([words(1, 0x100, 1, 0, 0, 0), nameBytes("a.com"), words(1)]),
  };

  it.each(Object.entries(formatErrors))("%s is a format error", async (_, bytes) => {
    const [answer] = await ask(guest, [{ bytes }]);
    expect(parseAnswer(answer ?? Buffer.alloc(0))).toMatchObject({ code: codes.format, answers: [] });
  });

  it("gets no answer where one could begin a loop, or there is nobody to answer", async () => {
    const [answered, short, empty] = await ask(guest, [
      { bytes: query("a.com", { flags: 0x8100 }) },
      { bytes: query("a.com").subarray(0, 11) },
      { bytes: Buffer.alloc(0) },
    ]);
    expect([answered, short, empty]).toEqual([null, null, null]);
  });

  it("is told what is not done here", async () => {
    const [status, update, chaos] = await lookUp(
      ["a.com", { flags: 2 << 11 }],
      ["a.com", { flags: 5 << 11 }],
      ["version.bind", { type: types.TXT, class: 3 }],
    );
    expect([status?.code, update?.code, chaos?.code]).toEqual([
      codes.notImplemented,
      codes.notImplemented,
      codes.refused,
    ]);
  });

  it("of random bytes leaves a name server that answers", async () => {
    let seed = 1;
    const random = () => (seed = (seed * 48_271) % 2_147_483_647);
    const queries = Array.from({ length: 400 }, () => {
      const bytes = query("example.com", { edns: 0 });
      for (let i = 0; i < 3; i++) bytes[random() % bytes.length] = random() & 0xff;
      return { bytes };
    });
    for (const answer of await ask(guest, queries)) if (answer) parseAnswer(answer);
    expect((await lookUp("example.com"))[0]?.answers).toHaveLength(1);
  });
});

describe("by TCP", () => {
  /** Sends pieces, one after the other, and gives the bytes that come back until the other side ends. */
  const converse = async (pieces: readonly Buffer[]): Promise<Buffer> => {
    const said = await inside<string>(
      guest,
      `const socket = net.connect(53, "192.0.2.53"); const parts = [];
      socket.on("data", (part) => parts.push(part)).on("error", () => {});
      const closed = new Promise((resolve) => socket.on("close", resolve));
      for (const piece of input) { socket.write(Buffer.from(piece, "base64")); await new Promise((r) => setTimeout(r, 20)); }
      socket.end(); await closed;
      print(Buffer.concat(parts).toString("base64"));`,
      pieces.map((piece) => piece.toString("base64")),
    );
    return Buffer.from(said, "base64");
  };
  const framed = (message: Buffer) => Buffer.concat([words(message.length), message]);

  it("answers several queries of one connection, however they are cut", async () => {
    const all = Buffer.concat([framed(query("one.example")), framed(query("two.example", { id: 2 }))]);
    const answers = await converse([all.subarray(0, 1), all.subarray(1, 20), all.subarray(20)]);
    const length = answers.readUInt16BE(0);
    const [first, second] = [answers.subarray(2, 2 + length), answers.subarray(4 + length)];
    expect(parseAnswer(first)).toMatchObject({ id: 0x1234, question: "one.example" });
    expect(parseAnswer(second)).toMatchObject({ id: 2, question: "two.example" });
  });

  it("ends a connection that asks for too much, or makes no sense", async () => {
    expect(await converse([words(4097), Buffer.alloc(5000)])).toHaveLength(0);
    expect(await converse([words(3), Buffer.alloc(3)])).toHaveLength(0);
  });

  it("keeps answering while connections say nothing", async () => {
    const answered = await inside<boolean>(
      guest,
      `const idle = []; for (let i = 0; i < 300; i++) idle.push(net.connect(53, "192.0.2.53").on("error", () => {}));
      await Promise.all(idle.map((one) => new Promise((resolve) => one.once("connect", resolve))));
      const socket = net.connect(53, "192.0.2.53"); socket.write(Buffer.from(input, "base64"));
      const answer = await new Promise((resolve) => socket.once("data", resolve));
      for (const one of [...idle, socket]) one.destroy();
      print(answer.length > 2);`,
      framed(query("a.example")).toString("base64"),
    );
    expect(answered).toBe(true);
  });
});

it("remembers 65 536 names, and gives the address that was not used for longest to the next", async () => {
  const flood = (from: number, count: number) =>
    inside(
      guest,
      `const socket = dgram.createSocket("udp4"); const [head, tail, from, count] = input; let got = 0, sent = 0;
      const next = () => {
        const label = Buffer.from(String(from + sent++).padStart(6, "0"));
        socket.send(Buffer.concat([Buffer.from(head, "base64"), label, Buffer.from(tail, "base64")]), 53, "192.0.2.53");
      };
      await new Promise((resolve) => {
        socket.on("message", () => { if (++got === count) resolve(); else if (sent < count) next(); });
        for (let i = 0; i < 20; i++) next();
      });
      socket.close(); print(got);`,
      [
        Buffer.concat([words(1, 0x100, 1, 0, 0, 0), Buffer.from([6])]).toString("base64"),
        Buffer.concat([nameBytes("flood.example"), words(1, 1)]).toString("base64"),
        from,
        count,
      ],
    );
  const [first, kept] = await lookUp("first.example", "kept.example");
  await flood(0, 40_000);
  await lookUp("kept.example");
  await flood(40_000, 40_000);
  const reverse = (answer?: Answer) => `${answer?.answers[0]?.split(".").reverse().join(".")}.in-addr.arpa`;
  const [taken, still] = await lookUp(
    [reverse(first), { type: types.PTR }],
    [reverse(kept), { type: types.PTR }],
  );
  expect(taken?.answers[0]).toMatch(/flood\.example$/);
  expect(still?.answers).toEqual(["kept.example"]);
  expect((await lookUp("kept.example"))[0]?.answers).toEqual(kept?.answers);
}, 150_000);
