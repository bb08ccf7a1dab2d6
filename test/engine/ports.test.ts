import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { describe, expect, it, onTestFinished } from "vitest";
import type { Engine } from "../../src/engine/engine.ts";
import { admitPorts } from "../../src/engine/ports/admit.ts";
import { countingServer, exchange, udpClient } from "../../src/testing/api-ports.ts";
import { quietPort } from "../../src/testing/ports.ts";
import { eventually, within } from "../../src/testing/wait.ts";
import { stateDir, testEngine } from "./support/engine.ts";

async function withServer(engine: Engine, port = 8000) {
  const created = await engine.create({ ports: [{ sandbox_port: port, host_port: await quietPort() }] });
  await engine.exec(created.id, {
    cmd: ["sh", "-c", 'perl -e "$1" "$2" >/dev/null 2>&1 </dev/null &', "sh", countingServer, String(port)],
  });
  const hostPort = created.ports?.[0]?.host_port ?? 0;
  await eventually("a server inside", async () => (await exchange(hostPort, "a")) === "1 A");
  return { id: created.id, hostPort };
}

async function occupy(given?: number) {
  const port = given ?? (await quietPort());
  const server = createServer().listen(port, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  return { server, port };
}

describe("an engine that opens again", () => {
  it("has the ports again that its sandboxes had, and none while it is closed", async () => {
    const { path } = stateDir();
    const first = await testEngine(path);
    const { id, hostPort } = await withServer(first.engine);
    await first.engine.close();
    expect(await exchange(hostPort, "a")).toBe("ECONNREFUSED");
    await using next = await testEngine(path);
    expect(await next.engine.ports.list(id)).toMatchObject([{ host_port: hostPort, state: "open" }]);
    expect(await exchange(hostPort, "hello")).toBe("5 HELLO");
  });

  it("runs a sandbox without the port that somebody took meanwhile, says so, and tries again at its next start", async () => {
    const { path } = stateDir();
    const first = await testEngine(path);
    const { id, hostPort } = await withServer(first.engine);
    await first.engine.close();
    const { server } = await occupy(hostPort);
    const lines: unknown[] = [];
    const log = { ...silent, warn: (line: unknown) => void lines.push(line) };
    await using next = await testEngine(path, { log: { ...log, child: () => log } as never });
    expect(await next.engine.get(id)).toMatchObject({
      status: "running",
      ports: [
        { host_port: hostPort, state: "failed", error: expect.stringContaining("in use by another program") },
      ],
    });
    expect(lines).toContainEqual(expect.objectContaining({ sandbox: id, code: "port_in_use" }));
    await next.engine.stop(id, { timeoutMs: 0 });
    expect(await next.engine.start(id)).toMatchObject({ status: "running", ports: [{ state: "failed" }] });
    server.close();
    await next.engine.stop(id, { timeoutMs: 0 });
    const [port] = (await next.engine.start(id)).ports ?? [];
    expect(port).toEqual({
      sandbox_port: 8000,
      host_port: hostPort,
      protocol: "tcp",
      address: "127.0.0.1",
      state: "open",
    });
  });
});

describe("a published port", () => {
  it("takes a bounded number of connections, and resets the others", async () => {
    await using opened = await testEngine(stateDir().path, { config: { maxPortConnectionsPerSandbox: 2 } });
    const { id, hostPort } = await withServer(opened.engine);
    const held = await Promise.all([hold(hostPort), hold(hostPort)]);
    await eventually("two connections inside", async () => (await exchange(hostPort, "x")) === "ECONNRESET");
    expect(await opened.engine.exec(id, { cmd: ["true"] })).toMatchObject({ exit_code: 0 });
    held[0]?.destroy();
    await eventually("a free place", async () => (await exchange(hostPort, "x")) === "1 X");
  });

  it("holds up a client whose server does not read", async () => {
    await using opened = await testEngine(stateDir().path);
    const { engine } = opened;
    const { id, ports } = await engine.create({ ports: [{ sandbox_port: 8000 }] });
    const hostPort = ports?.[0]?.host_port ?? 0;
    const mute = `use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 8000, Listen => 9, ReuseAddr => 1);
      my $c = $s->accept; sleep 600;`;
    await engine.exec(id, { cmd: ["sh", "-c", 'perl -e "$1" >/dev/null 2>&1 </dev/null &', "sh", mute] });
    const client = await eventually("a connection", () => hold(hostPort));
    const before = process.memoryUsage().rss;
    const chunk = Buffer.alloc(1 << 20);
    let sent = 0;
    while (client.write(chunk) && sent < 256) sent++;
    for (; sent < 256; sent++) client.write(chunk);
    // What our own client could not send is ours; what the engine took of it is what counts.
    await eventually("the kernel's buffers to be full", async () => {
      const written = client.bytesWritten - client.writableLength;
      await new Promise((resolve) => setTimeout(resolve, 50));
      return written > 0 && client.bytesWritten - client.writableLength === written;
    });
    expect(client.bytesWritten - client.writableLength).toBeLessThan(64 << 20);
    expect(process.memoryUsage().rss - before).toBeLessThan(320 << 20);
    client.destroy();
  });

  it("is of IPv6 or IPv4 as its address says, and refuses what is no address of this machine", async () => {
    await using opened = await testEngine(stateDir().path);
    const { engine } = opened;
    const { id, ports } = await engine.create({
      ports: [
        { sandbox_port: 8000, address: "[::1]" },
        { sandbox_port: 8000, address: "localhost" },
      ],
    });
    expect(ports).toMatchObject([{ address: "::1" }, { address: "127.0.0.1" }]);
    await engine.exec(id, {
      cmd: ["sh", "-c", 'perl -e "$1" 8000 >/dev/null 2>&1 </dev/null &', "sh", countingServer],
    });
    for (const { address, host_port } of ports ?? []) {
      await eventually(address, async () => (await exchange(host_port, "a", address)) === "1 A");
    }
    for (const [address, code] of [
      ["192.0.2.1", "invalid_request"],
      ["::ffff:127.0.0.1", "invalid_request"],
      ["fe80::1%lo", "invalid_request"],
      ["2130706433", "invalid_request"],
      ["0x7f.1", "invalid_request"],
    ] as const) {
      await expect(engine.ports.add(id, { sandbox_port: 1, address }), address).rejects.toMatchObject({
        code,
      });
    }
    // On all addresses is on this one too.
    const taken = ports?.[1]?.host_port ?? 0;
    for (const address of ["127.0.0.1", "0.0.0.0"]) {
      const again = engine.ports.add(id, { sandbox_port: 1, host_port: taken, address });
      await expect(again, address).rejects.toMatchObject({ code: "port_in_use" });
    }
  });

  it("of UDP keeps clients apart, makes room for new ones, and gives nobody another's answers", async () => {
    await using opened = await testEngine(stateDir().path);
    const { engine } = opened;
    const { id, ports } = await engine.create({
      ports: [
        { sandbox_port: 5300, protocol: "udp", address: "::1" },
        { sandbox_port: 5300, protocol: "udp" },
      ],
    });
    const [six, four] = (ports ?? []).map(({ host_port }) => host_port);
    // Each answer comes twice: at once, and with the next request of anybody.
    const late = `use IO::Socket::INET; my $s = IO::Socket::INET->new(Proto => "udp", LocalAddr => "127.0.0.1", LocalPort => 5300) or die;
      my @old; while (my $p = $s->recv(my $m, 9999)) { send($s, $_->[1], 0, $_->[0]) for @old; @old = ([$p, "late $m"]); $s->send("to $m") }`;
    await engine.exec(id, { cmd: ["sh", "-c", 'perl -e "$1" >/dev/null 2>&1 </dev/null &', "sh", late] });
    await using first = await udpClient(four ?? 0);
    await using second = await udpClient(six ?? 0, "::1");
    await eventually("a server inside", () => first.ask("warm-up"));
    expect(await second.ask("b", { patienceMs: 20_000 })).toBe("to b");
    expect(await first.ask("a", { patienceMs: 20_000 })).toMatch(/^((late|to) warm-up|to a)$/);
    // 256 others later the first is a stranger, and hears nothing of what was meant for it.
    const others = await Promise.all(Array.from({ length: 256 }, () => udpClient(four ?? 0)));
    for (const other of others) await other.ask("c");
    const heard: string[] = [];
    others.at(-1)?.socket.on("message", (bytes) => heard.push(String(bytes)));
    await others.at(-1)?.ask("d");
    expect(heard.every((text) => !/[ab]$|warm-up/.test(text))).toBe(true);
    for (const other of others) await other[Symbol.asyncDispose]();
  });

  it("ends with the sandbox, however that ends, and is not opened for one that could not be made", async () => {
    await using opened = await testEngine(stateDir().path);
    const { engine } = opened;
    const { id, hostPort } = await withServer(engine);
    const client = await hold(hostPort);
    const gone = new Promise((resolve) => client.once("close", resolve));
    const { pid = 0 } = await engine.get(id);
    process.kill(pid, "SIGKILL");
    await within(20_000, "the end of a connection", gone);
    await eventually("the end of the port", async () => (await exchange(hostPort, "a")) === "ECONNREFUSED");
    expect(await engine.get(id)).toMatchObject({ status: "stopped", ports: [{ state: "closed" }] });

    const { port, server } = await occupy();
    server.close();
    const failing = engine.create({ image: "/nonexistent", ports: [{ sandbox_port: 1, host_port: port }] });
    await expect(failing).rejects.toMatchObject({ code: "image_not_found" });
    expect(await exchange(port, "a")).toBe("ECONNREFUSED");
  });

  it("of a stopped sandbox is opened when that starts, and may be chosen then", async () => {
    await using opened = await testEngine(stateDir().path);
    const { engine } = opened;
    const { id } = await engine.create({});
    await engine.stop(id, { timeoutMs: 0 });
    expect(await engine.ports.add(id, { sandbox_port: 8000 })).toMatchObject({
      host_port: 0,
      state: "closed",
    });
    const [port] = (await engine.start(id)).ports ?? [];
    expect(port).toMatchObject({ state: "open", host_port: expect.any(Number) });
    expect(port?.host_port).toBeGreaterThan(0);
    expect(await exchange(port?.host_port ?? 0, "a")).toBe("ECONNRESET");
  });

  it("is none of the machine's own, whose network the sandbox has", () => {
    const ports = [{ sandbox_port: 22, host_port: 0, protocol: "tcp", address: "127.0.0.1" } as const];
    expect(() => admitPorts(ports, { mode: "host", hasCredentials: false })).toThrow(
      expect.objectContaining({ code: "forbidden" }),
    );
    for (const mode of ["none", "filtered", "open"] as const) {
      expect(admitPorts(ports, { mode, hasCredentials: true })).toEqual(ports);
    }
  });

  it("is never the sandbox's own way out", async () => {
    await using opened = await testEngine(stateDir().path);
    const { engine } = opened;
    const refused = { code: "forbidden" };
    const request = { network_mode: "filtered", ports: [{ sandbox_port: 3128 }] };
    await expect(engine.create(request)).rejects.toMatchObject(refused);
    const { id } = await engine.create({ network_mode: "filtered" });
    for (const sandbox_port of [3128, 3129, 3130])
      await expect(engine.ports.add(id, { sandbox_port })).rejects.toMatchObject(refused);
    await expect(engine.dial(id, 3128)).rejects.toMatchObject(refused);
    const plain = await engine.create({ ports: [{ sandbox_port: 3128 }] });
    expect(plain.ports).toMatchObject([{ sandbox_port: 3128, state: "open" }]);
  });
});

const silent = { debug() {}, info() {}, warn() {}, error() {} };

async function hold(port: number): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  await once(socket, "connect");
  return socket;
}
