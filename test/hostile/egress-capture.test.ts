import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import type { AddressInfo, Server } from "node:net";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openEngine } from "../../src/engine/engine.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { run } from "../../src/lib/run.ts";
import { openPodmanRuntime } from "../../src/runtimes/podman/runtime.ts";
import { makeUser } from "../rootless/support/user.ts";
import { makeStorage, testImage } from "../runtimes/podman/support/storage.ts";
import { type Lab, openLab, outcomesOf } from "./support/lab.ts";
import { startSniffer } from "./support/sniffer.ts";

const script = readFileSync(fileURLToPath(new URL("programs/egress.pl", import.meta.url)), "utf8");
const ATTACK_TIMEOUT_S = 110;
const TEST_TIMEOUT_MS = 150_000;

/** Addresses that nobody has (RFC 5737, RFC 3849), and nobody but the script sends to, as they are in packets. */
const addresses = [
  Buffer.from([203, 0, 113, 80]),
  Buffer.from([203, 0, 113, 53]),
  Buffer.from("20010db8dead", "hex"),
];
const newMarker = () => `w${randomBytes(8).toString("hex")}`;
/** What must be in nobody's packets: the addresses, and whatever has the marker in it. */
const needlesOf = (marker: string) => [Buffer.from(marker), Buffer.from(marker.toUpperCase()), ...addresses];

let lab: Lab;
/** Names that the engine looked up. */
const resolved: string[] = [];
let resolve = async (_name: string): Promise<string[]> => ["203.0.113.80"];

beforeAll(async () => {
  lab = await openLab({
    programs: ["sniffer"],
    resolve: (name) => {
      resolved.push(name);
      return resolve(name);
    },
  });
});
afterAll(() => lab?.[Symbol.asyncDispose]());

/** Runs the script in a sandbox of the image `host`, which has perl, and tells what was on the host's interfaces meanwhile. */
async function attackFrom(mode: "none" | "filtered") {
  const marker = newMarker();
  resolved.length = 0;
  const id = (await lab.engine.create({ image: "host", network_mode: mode, timeout: 600 })).id;
  await using sniffer = await startSniffer(lab.program("sniffer"), needlesOf(marker));
  const proxy = mode === "filtered" ? "3128" : "0";
  const result = await lab.engine.exec(id, {
    cmd: ["perl", "-e", script, marker, proxy],
    timeout: ATTACK_TIMEOUT_S,
  });
  const outcomes = outcomesOf(result);
  const devices = (await lab.engine.exec(id, { cmd: ["cat", "/proc/net/dev"] })).stdout;
  return { id, marker, outcomes, devices, ...(await sniffer.finish()) };
}

describe.each(["none", "filtered"] as const)(
  "a sandbox with the network %s that may reach nothing",
  (mode) => {
    it(
      "emits no packet and looks nothing up, whatever it tries",
      async () => {
        const { id, outcomes, packets, lost, devices, marker } = await attackFrom(mode);
        expect(outcomes.size).toBeGreaterThan(50);
        // What reached somebody would have an answer.
        expect([...outcomes].filter(([, outcome]) => /hello|200 OK|connected$/.test(outcome))).toEqual([]);
        expect({ packets, lost }).toEqual({ packets: [], lost: 0 });
        expect(resolved).toEqual([]);
        expect([...devices.matchAll(/^ *(\w+):/gm)].map(([, name]) => name)).toEqual(["lo"]);
        if (mode === "none") {
          expect(outcomes.get("looking a name up")).toMatch(/no such name/);
          return;
        }
        // It was heard, by name where there was one, and refused.
        const decisions = await lab.engine.network.decisions(id);
        expect(decisions.filter(({ allowed }) => allowed)).toEqual([]);
        const hosts = new Set(decisions.map(({ host, port }) => `${host}:${port}`));
        for (const host of [
          "203.0.113.80:22",
          "2001:db8:dead::80:443",
          `name-${marker}.lookup.example:443`,
          "169.254.169.254:80",
        ]) {
          expect(hosts).toContain(host);
        }
        expect(outcomes.get("looking a name up")).toMatch(/^198\.19\./);
        expect(outcomes.get("proxy absolute")).toMatch(/^403/);
        expect(outcomes.get(`dns udp to 8.8.8.8`)).toMatch(/^\?/);
        for (const way of [
          "udp 443",
          "udp ipv6",
          "icmp raw",
          "icmp datagram",
          "packet socket",
          "sctp",
          "ip raw",
        ]) {
          expect([way, outcomes.get(way)]).toEqual([way, expect.stringMatching(/^failed: [A-Z]/)]);
        }
      },
      TEST_TIMEOUT_MS,
    );
  },
);

/** One of each kind, for runtimes whose sandboxes have their namespaces from elsewhere: a container engine, or an ordinary user. */
const short =
  "tcp 443|tcp ipv6|udp 443|udp ipv6|udp broadcast|dns udp to 203.*|dns udp ipv6|looking a name up|connecting to a name|" +
  "icmp raw|icmp datagram|ip raw|packet socket|sctp|proxy absolute|proxy connect";

it(
  "neither does one of Podman, nor of an ordinary user",
  async () => {
    const marker = newMarker();
    const tries = { none: "0", filtered: "3128" } as const;
    const attack = (mode: keyof typeof tries) => ["perl", "-e", script, marker, tries[mode], short];
    const stateDir = mkdtempSync(join(tmpdir(), "wpod-"));
    using user = makeUser();
    const storage = makeStorage();
    const podman = await openEngine({
      stateDir,
      runtimes: { podman: await openPodmanRuntime({ stateDir, ownerId: "t1", log: silentLogger }) },
      defaultRuntime: "podman",
      log: silentLogger,
    });
    try {
      await using sniffer = await startSniffer(lab.program("sniffer"), needlesOf(marker));
      const ofPodman = async (mode: keyof typeof tries) => {
        const { id } = await podman.create({ image: testImage, network_mode: mode, timeout: 600 });
        return await podman.exec(id, { cmd: attack(mode), timeout: ATTACK_TIMEOUT_S });
      };
      const ofUser = async (mode: keyof typeof tries) => {
        const options = ["--unlimited", "--network", mode, "--"];
        return await user.run([process.execPath, "dist/cli/main.js", "run", ...options, ...attack(mode)]);
      };
      const results = await Promise.all(
        (["none", "filtered"] as const).flatMap((mode) =>
          [ofPodman, ofUser].map(async (way) => ({ mode, outcomes: outcomesOf(await way(mode)) })),
        ),
      );
      expect(await sniffer.finish()).toEqual({ packets: [], lost: 0 });
      for (const { mode, outcomes } of results) {
        expect(outcomes.size).toBe(16);
        expect([...outcomes].filter(([, outcome]) => /hello|200 OK|connected$/.test(outcome))).toEqual([]);
        // It was tried: where there is a way out, this one was heard.
        if (mode === "filtered") expect(outcomes.get("proxy absolute")).toMatch(/^403/);
      }
    } finally {
      for (const { id } of await podman.list()) await podman.remove(id);
      await podman.close();
      rmSync(stateDir, { recursive: true, force: true });
      storage.remove();
    }
  },
  TEST_TIMEOUT_MS,
);

it(
  "the same capture sees what the script sends where nothing is in its way",
  async () => {
    const marker = newMarker();
    const [outer, inner] = [`wh${randomBytes(4).toString("hex")}`, `wi${randomBytes(4).toString("hex")}`];
    // A namespace of its own with one link to this host, on which nobody answers.
    const open = `set -e
      ip link set lo up; ip addr add 203.0.113.1/24 dev ${inner}; ip addr add 2001:db8:dead::1/64 dev ${inner} nodad; ip link set ${inner} up
      for a in 203.0.113.80 203.0.113.53; do ip neigh add $a lladdr 02:00:00:00:00:02 dev ${inner}; done
      for a in 2001:db8:dead::80 2001:db8:dead::53; do ip neigh add $a lladdr 02:00:00:00:00:02 dev ${inner}; done
      ip route add default via 203.0.113.80; exec perl -e "$1" "$2" 0`;
    const made = await run("ip", ["link", "add", outer, "type", "veth", "peer", "name", inner]);
    expect([made.code, made.stderr.toString()]).toEqual([0, ""]);
    try {
      await run("ip", ["link", "set", outer, "up"]);
      await using sniffer = await startSniffer(lab.program("sniffer"), needlesOf(marker));
      const result = await run(
        "unshare",
        [
          "--net",
          "sh",
          "-c",
          `nsenter -t $PPID -n ip link set ${inner} netns $$; ${open}`,
          "sh",
          script,
          marker,
        ],
        { timeoutMs: ATTACK_TIMEOUT_S * 1000, maxOutputBytes: 1 << 20 },
      );
      expect([result.code, result.stderr.toString()]).toEqual([0, ""]);
      const { packets } = await sniffer.finish();
      const seen = (wanted: (bytes: Buffer) => boolean) =>
        packets.some(({ device, bytes }) => device === outer && wanted(bytes));
      const has = (text: string) => (bytes: Buffer) => bytes.includes(text);
      const protocol = (number: number) => (bytes: Buffer) => bytes[0] === 0x45 && bytes[9] === number;
      const found = {
        tcp: seen(protocol(6)),
        udp: seen((bytes) => protocol(17)(bytes) && has(marker)(bytes)),
        icmp: seen((bytes) => protocol(1)(bytes) && has(marker)(bytes)),
        raw: seen((bytes) => protocol(253)(bytes) && has(marker)(bytes)),
        ipv6: seen((bytes) => ((bytes[0] ?? 0) & 0xf0) === 0x60),
        tunnel: seen(has(`udp-${marker}`)),
        ethernet: seen((bytes) => bytes.toString("latin1").startsWith(`E${marker}`)),
      };
      expect(found).toEqual(Object.fromEntries(Object.keys(found).map((key) => [key, true])));
    } finally {
      await run("ip", ["link", "del", outer]);
    }
  },
  TEST_TIMEOUT_MS,
);

describe("a sandbox that may reach everything but internal addresses", () => {
  let id: string;
  let canary: Server;
  let visits = 0;
  beforeAll(async () => {
    canary = createServer((socket) => {
      socket
        .on("error", () => {})
        .once("data", () => {
          visits++;
          socket.end("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        });
    }).listen(0, "127.0.0.1");
    await once(canary, "listening");
    id = (await lab.engine.create({ image: "host", network: { allow: ["*"] }, timeout: 600 })).id;
  });
  afterAll(() => void canary?.close());

  /** Connects to it in two ways: by the proxy, and as a program that knows none. */
  const ask = async (host: string, port: number) => {
    const client = `use IO::Socket::IP; my ($host, $port) = @ARGV; alarm 20; my $bare = $host; $bare =~ s/^\\[|\\]$//g;
      for my $to (["127.0.0.1", 3128, "http://$host:$port"], [$bare, $port, ""]) {
        my $s = IO::Socket::IP->new(PeerHost => $$to[0], PeerPort => $$to[1], Type => SOCK_STREAM, GetAddrInfoFlags => 0) or do { print "none\\n"; next };
        syswrite $s, "GET $$to[2]/ HTTP/1.1\\r\\nHost: $host:$port\\r\\nConnection: close\\r\\n\\r\\n";
        my $all = join "", <$s>; print length $all ? substr($all, 0, 12) : "closed", "\\n"; }`;
    return (await lab.engine.exec(id, { cmd: ["perl", "-e", client, host, String(port)], timeout: 60 }))
      .stdout;
  };

  it("reaches no server of this host by any notation of its address, nor by a name that leads there", async () => {
    const { port } = canary.address() as AddressInfo;
    resolve = async () => ["127.0.0.1", "::ffff:127.0.0.1", "::1"];
    const loopback = [
      "2130706433",
      "0x7f000001",
      "017700000001",
      "0177.0.0.1",
      "127.1",
      "[::ffff:127.0.0.1]",
      "[::ffff:7f00:1]",
      "[64:ff9b::7f00:1]",
      "[2002:7f00:1::1]",
    ];
    const names = ["rebound.example", "REBOUND.example.", "127.0.0.1.nip.example", "xn--rbound-dva.example"];
    for (const host of [...loopback, ...names]) {
      // What libc inside takes for its own loopback is answered there: by nobody.
      expect([host, await ask(host, port)]).toEqual([host, expect.not.stringMatching(/200/)]);
    }
    expect(visits).toBe(0);
    resolve = async () => ["203.0.113.80"];
  });

  it("reaches nothing of this host when a name's address changes between two looks", async () => {
    const { port } = canary.address() as AddressInfo;
    let looks = 0;
    // As a server with a TTL of 0 that changes its mind each time.
    resolve = async () => [looks++ % 2 === 0 ? "192.0.2.254" : "127.0.0.1"];
    await lab.engine.network.set(id, { allow: ["*"], deny: ["192.0.2.0/24"] });
    for (let i = 0; i < 4; i++) expect(await ask("rebinding.example", port)).not.toMatch(/200/);
    expect(looks).toBeGreaterThanOrEqual(8);
    expect(visits).toBe(0);
    // Without the guard the same name reaches it.
    await lab.engine.network.set(id, { allow: [`internal:rebinding.example:${port}`] });
    resolve = async () => ["127.0.0.1"];
    expect(await ask("rebinding.example", port)).toBe("HTTP/1.1 200\nHTTP/1.1 200\n");
    expect(visits).toBe(2);
  });
});
