import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import type { OpenNetworkPlaces } from "../../../src/testing/api-open-network.ts";

/** Where servers of the test listen, in every place. */
const PORT = 7000;
/** Where each client is told something again and again, by TCP, and by UDP after its first word. */
const TALKING = 7010;

/**
 * A host with an internet of its own: two network namespaces, one for the engine (`host`) and one for everybody else
 * (`outside`), with a link between them and no way to any real network.
 */
export interface Lab {
  places: OpenNetworkPlaces;
  /** What comes before a command to run it there. */
  onHost: readonly string[];
  /** Of the process that is there as long as the lab. */
  hostPid: number;
  end(): Promise<void>;
}

const address = {
  host4: "11.22.0.2",
  host6: "2a11:22::2",
  neighbour4: "11.22.0.1",
  outside4: "45.67.0.9",
  outside6: "2a45:67::9",
  private4: "10.9.9.9",
  nameServer: "10.9.9.53",
  metadata: "169.254.169.254",
  carrierNat: "100.64.9.9",
  private6: "fd09::9",
  // 10.9.9.9 in NAT64 and in 6to4.
  nat64: "64:ff9b::a09:909",
  sixToFour: "2002:a09:909::1",
};

const names = { "outside.test": address.outside4, "inside.test": address.private4 };

/**
 * Answers each connection with a line, talks to others, and answers names. By UDP, "hold" is answered when the next datagram has come,
 * whoever sends it, and others at once. Says "ready".
 */
const server = `
const net = require("node:net"), dgram = require("node:dgram");
const names = ${JSON.stringify(names)};
const answer = (query) => {
  const labels = []; let at = 12;
  while (query[at]) { labels.push(query.subarray(at + 1, at + 1 + query[at]).toString()); at += query[at] + 1; }
  const question = query.subarray(12, at + 5), type = query.readUInt16BE(at + 1), found = names[labels.join(".")];
  const head = Buffer.from(query.subarray(0, 12)); head[2] = 0x85; head[3] = found ? 0x80 : 0x83;
  head.writeUInt16BE(found && type === 1 ? 1 : 0, 6); head.writeUInt32BE(0, 8);
  const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, ...(found ?? "0.0.0.0").split(".").map(Number)]);
  return Buffer.concat([head, question, ...(found && type === 1 ? [record] : [])]);
};
const ports = process.argv[1].split(",").map(Number);
let waiting = ports.length + 1 + (process.argv[2] ? 3 : 0);
const ready = () => { if (--waiting === 0) console.log("ready"); };
for (const port of ports) net.createServer((c) => c.on("error", () => {}).end("hello\\n")).listen(port, "::", ready);
const talk = (say) => { let left = 600; const timer = setInterval(() => left-- > 0 ? say() : clearInterval(timer), 100); return timer; };
net.createServer((c) => {
  const timer = talk(() => c.write("tick\\n"));
  c.on("error", () => {}).on("close", () => clearInterval(timer)).resume();
}).listen(${TALKING}, "::", ready);
if (process.argv[2]) {
  const udp = dgram.createSocket("udp4"), known = new Map();
  udp.on("error", () => {}).on("message", (_, { address, port }) => {
    clearInterval(known.get(address + port));
    known.set(address + port, talk(() => udp.send("tick\\n", port, address)));
  }).bind(${TALKING}, ${JSON.stringify(address.outside4)}, ready);
  const dns = dgram.createSocket("udp4");
  dns.on("message", (query, from) => dns.send(answer(query), from.port, from.address)).bind(53, process.argv[2], ready);
  const holder = dgram.createSocket("udp4");
  let held;
  holder.on("message", (text, from) => {
    if (held) holder.send("held", held.port, held.address);
    held = String(text) === "hold" ? from : undefined;
    if (!held) holder.send(text, from.port, from.address);
  }).bind(ports[0], "${address.outside4}", ready);
}
`;

export async function makeLab(): Promise<Lab> {
  const dir = mkdtempSync(join(tmpdir(), "wlab-"));
  const children: ChildProcess[] = [];
  const end = async () => {
    for (const child of children.reverse()) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const exit = once(child, "exit");
      child.kill("SIGKILL");
      await exit;
    }
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const [host, outside] = await Promise.all([newPlace(children), newPlace(children)]);
    const onHost = ["nsenter", "-t", String(host), "-n", "-m", "--"];
    const onOutside = ["nsenter", "-t", String(outside), "-n", "--"];
    const ip = (where: readonly string[], lines: readonly string[]) =>
      execFileSync(where[0] as string, [...where.slice(1), "ip", "-batch", "-"], {
        input: `${lines.join("\n")}\n`,
      });
    ip(onHost, [
      "link set lo up",
      `link add up0 type veth peer name down0 netns ${outside}`,
      `addr add ${address.host4}/24 dev up0`,
      `addr add ${address.host6}/64 dev up0 nodad`,
      "link set up0 up",
    ]);
    ip(onOutside, [
      "link set lo up",
      `addr add ${address.neighbour4}/24 dev down0`,
      "addr add 2a11:22::1/64 dev down0 nodad",
      "link set down0 up",
      ...[address.outside4, address.private4, address.nameServer, address.metadata, address.carrierNat].map(
        (one) => `addr add ${one}/32 dev lo`,
      ),
      ...[address.outside6, address.private6, address.nat64, address.sixToFour].map(
        (one) => `addr add ${one}/128 dev lo nodad`,
      ),
    ]);
    ip(onHost, [`route add default via ${address.neighbour4}`, "route add default via 2a11:22::1"]);
    const resolver = join(dir, "resolv.conf");
    writeFileSync(resolver, `nameserver ${address.nameServer}\n`);
    execFileSync("nsenter", ["-t", String(host), "-m", "mount", "--bind", resolver, "/etc/resolv.conf"]);
    await Promise.all([
      serve(children, onOutside, [String(PORT), address.nameServer]),
      serve(children, onHost, [String(PORT)]),
    ]);
    const { host4, host6, neighbour4, private4, metadata, carrierNat, private6, nat64, sixToFour } = address;
    return {
      onHost,
      hostPid: host,
      end,
      places: {
        port: PORT,
        talking: TALKING,
        outside: [address.outside4, "outside.test"],
        outside6: address.outside6,
        internal: [host4, neighbour4, private4, "inside.test", metadata, carrierNat, address.nameServer],
        internal6: [host6, private6, nat64, sixToFour],
        named: private4,
        hostLoopback: ["10.0.2.2", "127.0.0.1", "fd00::2"],
        fromHost: (to, port) => reaches(onHost, to, port),
      },
    };
  } catch (error) {
    await end();
    throw error;
  }
}

/** A process in new network and mount namespaces; it ends with us. */
async function newPlace(children: ChildProcess[]): Promise<number> {
  const child = spawn("setpriv", [
    ...["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private"],
    ...["sleep", "infinity"],
  ]);
  children.push(child);
  const pid = child.pid as number;
  const own = readlinkSync("/proc/self/ns/net");
  // The mount namespace comes after it.
  const mine = readlinkSync("/proc/self/ns/mnt");
  for (let i = 0; i < 2000; i++) {
    const [net, mnt] = ["net", "mnt"].map((name) => readlinkSync(`/proc/${pid}/ns/${name}`));
    if (net !== own && mnt !== mine) return pid;
    await sleep(5);
  }
  throw new Error("no network namespace can be made");
}

async function serve(
  children: ChildProcess[],
  where: readonly string[],
  args: readonly string[],
): Promise<void> {
  const argv = [...where.slice(1), "setpriv", "--pdeathsig", "KILL", process.execPath, "-e", server, ...args];
  const child = spawn(where[0] as string, argv, { stdio: ["ignore", "pipe", "inherit"] });
  children.push(child);
  const line = await Promise.race([
    once(createInterface({ input: child.stdout }), "line"),
    once(child, "exit").then(() => ["it ended"]),
  ]);
  if (line[0] !== "ready") throw new Error(`a server of the lab does not start: ${line[0]}`);
}

/** Lets every user of the lab's host open /dev/net/tun, as most distributions do; this machine may not. */
export function openTun({ hostPid }: Lab): void {
  const script = "mount -t tmpfs none /dev/net && mknod -m 0666 /dev/net/tun c 10 200";
  execFileSync("nsenter", ["-t", String(hostPid), "-m", "sh", "-c", script]);
}

function reaches(where: readonly string[], to: string, port: number): boolean {
  const dial =
    "use IO::Socket::IP; exit(IO::Socket::IP->new(PeerHost=>$ARGV[0],PeerPort=>$ARGV[1],Timeout=>2) ? 0 : 1)";
  try {
    execFileSync(where[0] as string, [...where.slice(1), "perl", "-e", dial, to, String(port)], {
      stdio: "ignore",
    });
    return true;
  } catch {
    return false;
  }
}
