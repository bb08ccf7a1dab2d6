import { readFile } from "node:fs/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { nativeProgram } from "../../src/lib/native.ts";
import { run as runProgram } from "../../src/lib/run.ts";
import { ask, inside, startCapturing } from "./capture-harness.ts";
import { parseAnswer, query } from "./dns-messages.ts";
import { childrenOf, run, script, type TestGuest, until } from "./harness.ts";

let guest: TestGuest;
beforeAll(async () => {
  guest = await startCapturing();
});
afterAll(() => guest?.[Symbol.asyncDispose]());

let test = new AbortController();
afterEach(() => {
  test.abort();
  test = new AbortController();
});

/** Takes the next connection as the host does, answers what it says, and tells whom it was meant for. */
async function takeOne(): Promise<{ host: string; port: number } | undefined> {
  const { socket, target } = await guest.client.accept(test.signal);
  socket.on("data", (bytes: Buffer) => socket.write(`to ${bytes}`)).on("end", () => socket.end());
  return target;
}

/** Says something to a host and port, and gives the answer and both ends' addresses. */
const talk = (host: string, port: number) =>
  inside<{ said: string; ours: string; theirs: string }>(
    guest,
    `const socket = net.connect({ host: input[0], port: input[1], allowHalfOpen: true });
    await new Promise((resolve, reject) => socket.on("connect", resolve).on("error", reject));
    const ends = { ours: socket.localAddress, theirs: socket.remoteAddress };
    let said = ""; socket.on("data", (part) => { said += part; }); socket.end("hello");
    await new Promise((resolve) => socket.on("close", resolve)); print({ said, ...ends });`,
    [host, port],
  );

it("hands connections to any address to the host, which is told whom they are for", async () => {
  expect(await guest.client.hello()).toMatchObject({ captures: true });
  for (const host of ["192.0.2.1", "8.8.8.8", "10.1.2.3", "169.254.169.254", "198.18.0.2", "2001:db8::1"]) {
    const [target, { said, theirs }] = await Promise.all([takeOne(), talk(host, 4433)]);
    expect(target).toEqual({ host, port: 4433 });
    expect([said, theirs]).toEqual(["to hello", host]);
  }
});

it("names the host by the name that was looked up, by whatever resolver", async () => {
  for (const name of ["one.example", "Two.Example."]) {
    const [target, { ours }] = await Promise.all([takeOne(), talk(name, 443)]);
    expect(target).toEqual({ host: name.toLowerCase().replace(/\.$/, ""), port: 443 });
    expect(ours).toBe("198.18.0.1");
  }
  const [target] = await Promise.all([
    takeOne(),
    inside(
      guest,
      `const [address] = await new dns.promises.Resolver().resolve4("three.example");
      const socket = net.connect(80, address); socket.end("x");
      await new Promise((resolve) => socket.on("close", resolve).resume()); print(address);`,
    ),
  ]);
  expect(target).toEqual({ host: "three.example", port: 80 });
});

it("leaves alone what programs inside say to each other", async () => {
  const reached = await inside<string[]>(
    guest,
    `const server = net.createServer((socket) => socket.end("payload")).listen(8080, "::");
    await new Promise((resolve) => server.on("listening", resolve)); const all = [];
    for (const host of ["127.0.0.1", "127.9.9.9", "::1", "198.18.0.1", "localhost"]) {
      const socket = net.connect(8080, host); let said = "";
      socket.on("data", (part) => { said += part; }).on("error", (error) => { said = error.code; });
      await new Promise((resolve) => socket.on("close", resolve)); all.push(said);
    }
    server.close(); print(all);`,
  );
  expect(reached).toEqual(Array(5).fill("payload"));
  const refused = await inside<string[]>(
    guest,
    `print(await Promise.all(["127.0.0.1", "::1", "198.18.0.1"].map((host) => new Promise((resolve) =>
      net.connect(8081, host).on("error", (error) => resolve(error.code)).on("connect", () => resolve("connected"))))));`,
  );
  expect(refused).toEqual(Array(3).fill("ECONNREFUSED"));
});

it("is not a listener of the payload that takes what is meant for the world", async () => {
  const [target, said] = await Promise.all([
    takeOne(),
    inside<string>(
      guest,
      `const server = net.createServer((socket) => socket.end("payload")).listen(443, "::");
      await new Promise((resolve) => server.on("listening", resolve));
      const socket = net.connect({ port: 443, host: "192.0.2.9", allowHalfOpen: true }); let said = "";
      socket.on("data", (part) => { said += part; }); socket.end("hello");
      await new Promise((resolve) => socket.on("close", resolve)); server.close(); print(said);`,
    ),
  ]);
  expect([target?.host, said]).toEqual(["192.0.2.9", "to hello"]);
});

it("ends a connection that the host does not want at once, and one to its own port without asking the host", async () => {
  const closing = `const socket = net.connect(input[1], input[0]); const begun = performance.now();
    socket.on("error", () => {}).resume(); socket.write("hello");
    await new Promise((resolve) => socket.on("close", resolve)); print(performance.now() - begun);`;
  const [, milliseconds] = await Promise.all([
    guest.client.accept(test.signal).then(({ socket }) => socket.destroy()),
    inside<number>(guest, closing, ["192.0.2.1", 443]),
  ]);
  // What is not closed is there until the program's time is up.
  expect(milliseconds).toBeLessThan(25_000);
  expect(await inside<number>(guest, closing, ["127.0.0.1", 3129])).toBeLessThan(25_000);
});

it("answers nothing but names: other datagrams are refused, and pings are lost", async () => {
  const refused = await inside<string[]>(
    guest,
    `print(await Promise.all([["udp4", "9.9.9.9", 123], ["udp4", "1.1.1.1", 443], ["udp6", "2001:db8::1", 443]].map(([type, host, port]) =>
      new Promise((resolve) => { const socket = dgram.createSocket(type);
        socket.on("error", (error) => { socket.close(); resolve(error.code); }).on("message", () => resolve("answered"));
        socket.connect(port, host, () => socket.send("x")); }))));`,
  );
  expect(refused).toEqual(Array(3).fill("ECONNREFUSED"));
  // An echo request with its checksum, and whether a reply to it comes within half a second.
  const ping = `socket(S, PF_INET, SOCK_RAW, 1) or die; send(S, pack("CCnnn", 8, 0, 0xf7fd, 1, 1), 0, sockaddr_in(0, inet_aton($ARGV[0])));
    for (1 .. 3) { my $r = ""; vec($r, fileno(S), 1) = 1; select($r, undef, undef, 0.5) or last; recv(S, my $p, 99, 0);
      if (ord(substr $p, 20) == 0) { print "alive"; last } }`;
  const pinged = async (host: string) =>
    (await run(guest, { argv: ["perl", "-MSocket", "-e", ping, host], env: { PATH: "/usr/bin" } })).stdout;
  expect([await pinged("127.0.0.1"), await pinged("192.0.2.1")]).toEqual(["alive", ""]);
});

describe("a name server of the payload's own", () => {
  it("is asked where it listens, and ours everywhere else", async () => {
    const servers = [
      "127.0.0.1",
      "::1",
      "198.18.0.1",
      "127.0.0.53",
      "8.8.8.8",
      "2001:4860:4860::8888",
      "198.18.0.2",
    ];
    const ours = await ask(
      guest,
      servers.map((server) => ({ server, bytes: query("a.example") })),
    );
    for (const answer of ours) expect(parseAnswer(answer ?? Buffer.alloc(0)).answers).toHaveLength(1);
    const said = await inside<string[]>(
      guest,
      `const server = dgram.createSocket("udp4"); server.on("message", (_, from) => server.send("mine", from.port, from.address));
      await new Promise((resolve) => server.bind(53, "127.0.0.1", resolve));
      print(await Promise.all(["127.0.0.1", "127.0.0.53", "8.8.8.8"].map((host) => new Promise((resolve) => {
        const socket = dgram.createSocket("udp4"); socket.connect(53, host, () => socket.send(Buffer.from(input, "base64")));
        socket.on("message", (message) => { socket.close(); resolve(message.toString("latin1")); }); }))));
      server.close();`,
      query("a.example").toString("base64"),
    );
    expect(said[0]).toBe("mine");
    for (const other of said.slice(1))
      expect(parseAnswer(Buffer.from(other, "latin1")).answers).toHaveLength(1);
  });
});

it("keeps nothing of what it needed for that, and nothing inside can undo it", async () => {
  const NET_ADMIN = 1n << 12n;
  const pids = [guest.pid, ...(await childrenOf(guest.pid))];
  const own = await run(guest, script("cat /proc/self/status"));
  const statuses = [
    own.stdout,
    // One of an earlier connection may be ending.
    ...(await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/status`, "utf8").catch(() => "")))),
  ].filter(Boolean);
  expect(statuses.length).toBeGreaterThanOrEqual(3);
  for (const status of statuses) {
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) {
      const value = BigInt(`0x${new RegExp(`^${set}:\\s+(\\w+)`, "m").exec(status)?.[1]}`);
      expect([set, value & NET_ADMIN]).toEqual([set, 0n]);
    }
  }
  const attempts = [
    "ip link set lo down",
    "ip route del local default dev lo",
    "ip addr add 192.0.2.1/32 dev lo",
  ];
  for (const attempt of attempts) {
    const { exit_code, stderr } = await run(guest, script(attempt));
    expect([exit_code, stderr]).toEqual([2, expect.stringContaining("Operation not permitted")]);
  }
});

it("goes on, with the same names, when the payload kills its relay", async () => {
  const addressOf = async () =>
    parseAnswer((await ask(guest, [{ bytes: query("kept.example") }]))[0] ?? Buffer.alloc(0)).answers;
  const before = await addressOf();
  const [relay, ...others] = await until(async () => {
    const children = await childrenOf(guest.pid);
    return children.length === 1 ? children : undefined;
  });
  expect(others).toEqual([]);
  process.kill(relay as number, "SIGKILL");
  await until(async () => {
    const [next] = await childrenOf(guest.pid);
    return next !== undefined && next !== relay;
  });
  expect(await addressOf()).toEqual(before);
  const [target] = await Promise.all([takeOne(), talk("kept.example", 443)]);
  expect(target).toEqual({ host: "kept.example", port: 443 });
});

describe("where it can't be set up", () => {
  const incapable = 'ip link set lo up; exec setpriv --bounding-set -net_admin "$@"';
  const without = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", incapable, "sh"];

  it("the proxy port works, nothing else leads out, and HELLO says so", async () => {
    await using plain = await startCapturing({ wrapper: without });
    expect(await plain.client.hello()).toMatchObject({ captures: false });
    expect(plain.stderr()).toMatch(/^warren-guest: capturing connections: .*Operation not permitted\n$/);
    const outcome = await inside<string[]>(
      plain,
      `print(await Promise.all([["192.0.2.1", 443], ["2001:db8::1", 443], ["127.0.0.1", 3129], ["127.0.0.1", 3128]].map(([host, port]) => new Promise((resolve) => {
        const socket = net.connect(port, host).on("error", (error) => resolve(error.code)).on("connect", () => { socket.destroy(); resolve("connected"); }); }))));`,
    );
    expect(outcome.slice(2)).toEqual(["ECONNREFUSED", "connected"]);
    for (const code of outcome.slice(0, 2)) expect(["ENETUNREACH", "EADDRNOTAVAIL"]).toContain(code);
  });

  it("the check for it says why", async () => {
    const check = [nativeProgram("warren-guest"), "--check-capture"] as const;
    expect(await runProgram(check[0], [check[1]])).toMatchObject({ code: 0 });
    const noNamespaces = 'echo 0 >/proc/sys/user/max_net_namespaces; exec "$@"';
    const caged = await runProgram("unshare", [
      "--user",
      "--map-root-user",
      "sh",
      "-c",
      noNamespaces,
      "sh",
      ...check,
    ]);
    expect([caged.code, caged.stderr.toString()]).toEqual([1, "a namespace: No space left on device\n"]);
  });
});

it("needs a proxy port, and ports that exist", async () => {
  for (const args of [
    ["--capture-port", "3129"],
    ["--proxy-port", "3128", "--capture-port", "65535"],
  ]) {
    const { code } = await runProgram(nativeProgram("warren-guest"), ["--listen", "/nonexistent/x", ...args]);
    expect(code).toBe(2);
  }
});
