import { type ChildProcess, execFileSync, fork, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { createNodeClient } from "../../src/client/node/index.ts";
import { EGRESS_PROXY_PORT } from "../../src/contracts/constants.ts";
import { BASE } from "../report/table.ts";
import { which } from "../subjects/process.ts";
import { trustFileIn } from "../subjects/warren-server.ts";
import type { Phase, PhaseContext } from "./phase.ts";

// From bench/phases/ as from dist/bench/.
const program = (name: string) => fileURLToPath(new URL(`../../bench/${name}`, import.meta.url));
/** For the rates. */
const AT_ONCE = 16;
const TIMEOUT_MS = 600_000;
const HOST = "127.0.0.1";
/** What a secret is for can't be spoken to in clear. */
const SECRET_HOST = "127.0.0.2";
/** As long as a token of the usual services. */
const SECRET = "bench_pat_11AAVGSJI0yuxScy53jEJr_tAVAQLzWLhGyqQKaw3";
/** Until a proxy that was started listens. */
const START_MS = 10_000;

export const egressWho = {
  direct: "direct",
  tinyproxy: "tinyproxy",
  /** As Warren, but TLS ends at the engine, which adds a secret to each request. */
  secret: "Warren HTTP (crun), with a secret",
} as const;

interface Order {
  what: "latency" | "httpsRate" | "httpRate" | "hold" | "churn" | "throughput" | "httpsThroughput";
  count: number;
  atOnce?: number;
}

/** MB/s to the client and to the server. */
interface Rates {
  down: number;
  up: number;
}

/** A way from a client to the server. */
interface Way {
  who: string;
  /** What the client measured; `egress-client.mjs` says what that is. */
  order(order: Order & { host?: string }, to?: Ports): Promise<unknown>;
  /** KiB of the processes that are in between, by what they are. */
  memory(): Promise<Record<string, number>>;
  /** Without garbage, where there is some. */
  usedKiB?(): Promise<number>;
  /** It ends each connection after one request. */
  keepsNone?: true;
  /** What is no HTTPS goes the same way as somebody else's. */
  httpsOnly?: true;
  close(): Promise<void>;
}

/**
 * Clients reach a server on the loopback interface: from inside of a filtered sandbox, through another forward proxy, and
 * directly. The client is the same program each time.
 */
export const egressPhase: Phase = async (context) => {
  const { options, subjects } = context;
  if (!options.egress || !subjects.some(({ name }) => name === BASE)) return;
  const server = await startServer(context.scratch);
  const ways: Way[] = [];
  try {
    const warren = await throughWarren(context, server.ports);
    ways.push(warren, withSecret(warren, server.ports), directly(server.ports));
    const peer = await throughTinyproxy(context, server.ports);
    if (peer) ways.push(peer);
    await measure(context, server, ways, options.egress);
  } catch (error) {
    context.recorder.note(`egress: ended early: ${error instanceof Error ? error.message : String(error)}`);
  } finally {
    for (const way of ways) await way.close();
    server.child.kill();
  }
};

async function measure(
  { recorder, isOver }: PhaseContext,
  server: Server,
  ways: readonly Way[],
  {
    rounds,
    requests,
    connections,
    churn,
    mebibytes,
    httpsMebibytes,
  }: NonNullable<PhaseContext["options"]["egress"]>,
): Promise<void> {
  for (let round = 0; round < rounds && !isOver(); round++) {
    for (const way of ways) {
      const { who } = way;
      for (const ms of (await way.order({ what: "latency", count: Math.ceil(requests / 10) })) as number[]) {
        recorder.add("HTTPS request, a connection each", "ms", who, ms);
      }
      for (const [what, title] of [
        ["httpsRate", `HTTPS requests, a connection each, ${AT_ONCE} at once`],
        ["httpRate", `HTTP requests over kept connections, ${AT_ONCE} at once`],
      ] as const) {
        if (what === "httpRate" && (way.keepsNone || way.httpsOnly)) continue;
        const order = { what, count: requests, atOnce: AT_ONCE };
        const { perSecond, failures } = (await way.order(order)) as { perSecond: number; failures: number };
        if (failures > 0) recorder.note(`egress: ${who}: ${failures} of ${requests} failed: ${title}`);
        recorder.add(title, "per second", who, perSecond);
      }
      const overHttps = await way.order({ what: "httpsThroughput", count: httpsMebibytes });
      for (const [protocol, { down, up }] of Object.entries(overHttps as Record<string, Rates>)) {
        recorder.add(`${httpsMebibytes} MiB over HTTPS to the client, ${protocol}`, "MB/s", who, down);
        recorder.add(`${httpsMebibytes} MiB over HTTPS to the server, ${protocol}`, "MB/s", who, up);
      }
      if (way.httpsOnly) continue;
      const { down, up } = (await way.order({ what: "throughput", count: mebibytes })) as Rates;
      recorder.add(`${mebibytes} MiB to the client`, "MB/s", who, down);
      recorder.add(`${mebibytes} MiB to the server`, "MB/s", who, up);
    }
  }
  const plain = ways.filter(({ httpsOnly }) => !httpsOnly);
  for (let round = 0; round < rounds && !isOver(); round++) {
    for (const way of plain) {
      const { ms, failures, each } = await hold(server, way, connections);
      recorder.add(`${connections} connections at once, all served`, "ms", way.who, ms);
      recorder.add(`failures of ${2 * connections} connections`, "number", way.who, failures);
      // What is left over from the round before is used again: only the first tells.
      if (round > 0) continue;
      for (const [what, kib] of Object.entries(each)) {
        recorder.add(`memory of each of ${connections} more idle connections: ${what}`, "KiB", way.who, kib);
      }
    }
  }
  for (const way of plain) {
    if (!way.usedKiB || isOver()) continue;
    await way.order({ what: "churn", count: Math.ceil(churn / 10), atOnce: AT_ONCE });
    const before = await memoryOf(way);
    const { failures } = (await way.order({ what: "churn", count: churn, atOnce: AT_ONCE })) as {
      failures: number;
    };
    if (failures > 0) recorder.note(`egress: ${way.who}: ${failures} of ${churn} connections failed`);
    for (const [what, kib] of Object.entries(await memoryOf(way))) {
      recorder.add(`growth over ${churn} connections: ${what}`, "KiB", way.who, kib - (before[what] ?? 0));
    }
  }
}

/** KiB, by what they are of. */
async function memoryOf(way: Way): Promise<Record<string, number>> {
  // First: what is garbage is given back by that.
  const used = await way.usedKiB?.();
  return {
    ...(used === undefined ? {} : { "in use in the engine": used }),
    ...(await way.memory()),
    "kernel, with client and server": await kernelKiB(),
  };
}

/** Opens that many connections at once, and as many more: what each of those takes once nothing happens on it. */
async function hold(server: Server, way: Way, count: number) {
  const holding = way.order({ what: "hold", count }) as Promise<{ ms: number; failures: number }>;
  const early = holding.then(() => Promise.reject(new Error("the connections ended early")));
  early.catch(() => {});
  const first = await Promise.race([server.message(), early]);
  const before = await memoryOf(way);
  const all = server.message();
  server.child.send("more");
  const { open } = await Promise.race([all, early]);
  const memory = Object.entries(await memoryOf(way));
  const each = Object.fromEntries(
    memory.map(([what, kib]) => [what, (kib - (before[what] ?? 0)) / (open - first.open)]),
  );
  const ended = server.message();
  server.child.send("end");
  await ended;
  return { ...(await holding), each };
}

interface Ports {
  https: number;
  http: number;
  raw: number;
  /** The same as `https`; the sandbox has a secret for it. */
  secret: number;
}

interface Server {
  child: ChildProcess;
  ports: Ports;
  message(): Promise<{ open: number }>;
}

async function startServer(scratch: string): Promise<Server> {
  const [cert, key] = [trustFileIn(scratch), join(scratch, "egress.key")];
  execFileSync(
    "openssl",
    [
      ...[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
      ],
      ...["-subj", "/CN=bench", "-addext", `subjectAltName=IP:${SECRET_HOST}`, "-keyout", key, "-out", cert],
    ],
    { stdio: "ignore" },
  );
  const child = fork(program("egress-server.mjs"), [cert, key], { execArgv: [] });
  const [[https = 0, http = 0, raw = 0, secret = 0]] = (await once(child, "message")) as [number[]];
  const message = async () => ((await once(child, "message")) as [{ open: number }])[0];
  return { child, ports: { https, http, raw, secret }, message };
}

const argument = (ports: Ports, order: Order, proxy?: number) =>
  JSON.stringify({ host: HOST, ...order, ports, proxy });

/** The client on the host. */
async function clientHere(text: string): Promise<unknown> {
  const client = spawn(process.execPath, [program("egress-client.mjs"), text], {
    stdio: ["ignore", "pipe", "inherit"],
    timeout: TIMEOUT_MS,
  });
  let output = "";
  client.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString();
  });
  const [code] = (await once(client, "close")) as [number | null];
  if (code !== 0) throw new Error(`the client ended with ${code}`);
  return JSON.parse(output);
}

function directly(ports: Ports): Way {
  return {
    who: egressWho.direct,
    order: (order) => clientHere(argument(ports, order)),
    memory: async () => ({}),
    close: async () => {},
  };
}

/** From inside of a sandbox of the image `host`, so that the client is the same program. */
async function throughWarren({ server }: PhaseContext, ports: Ports): Promise<Way> {
  const api = createNodeClient({ url: server.url() });
  const { secret, ...others } = ports;
  const guarded = `${SECRET_HOST}:${secret}`;
  const allow = [...Object.values(others).map((port) => `${HOST}:${port}`), guarded];
  const { id } = await api.create({
    image: "host",
    timeout: -1,
    network: { allow },
    secrets: [{ name: "TOKEN", hosts: [guarded], value: SECRET, header: {} }],
  });
  await api.files.write(id, "/tmp/client.mjs", await readFile(program("egress-client.mjs")));
  return {
    who: BASE,
    async order(order, to = ports) {
      const { stdout, stderr, exit_code } = await api.exec(id, {
        cmd: [process.execPath, "/tmp/client.mjs", argument(to, order, EGRESS_PROXY_PORT)],
        timeout: TIMEOUT_MS / 1000,
      });
      if (exit_code !== 0)
        throw new Error(`the client inside ended with ${exit_code}: ${stderr.slice(-300)}`);
      return JSON.parse(stdout);
    },
    memory: async () => ({
      "the engine's process": await anonymousKiB([server.pid()]),
      "the guest, with its relay": await anonymousKiB(await guests()),
    }),
    usedKiB: () => server.usedKiB(),
    close: () => api.remove(id),
  };
}

/** The same sandbox, whose requests to that port are intercepted. */
function withSecret(warren: Way, ports: Ports): Way {
  return {
    who: egressWho.secret,
    httpsOnly: true,
    order: (order) => warren.order({ ...order, host: SECRET_HOST }, { ...ports, https: ports.secret }),
    memory: async () => ({}),
    close: async () => {},
  };
}

async function throughTinyproxy(
  { recorder, scratch, options }: PhaseContext,
  ports: Ports,
): Promise<Way | undefined> {
  const path = which("tinyproxy");
  if (!path) {
    recorder.note("left out: tinyproxy: it is not installed");
    return undefined;
  }
  const port = await freePort();
  const dir = join(scratch, "tinyproxy");
  await mkdir(dir);
  await chmod(dir, 0o755);
  const clients = 2 * (options.egress?.connections ?? 0) + AT_ONCE;
  const lines = [
    ...[`Port ${port}`, "Listen 127.0.0.1", "Allow 127.0.0.1", `MaxClients ${clients}`, "Timeout 600"],
    ...["LogLevel Critical", `LogFile "${join(dir, "log")}"`],
  ];
  await writeFile(join(dir, "conf"), `${lines.join("\n")}\n`);
  const child = spawn(path, ["-d", "-c", join(dir, "conf")], { stdio: "ignore" });
  const exited = once(child, "exit");
  const end = performance.now() + START_MS;
  while (!(await listens(port))) {
    if (performance.now() > end || child.exitCode !== null) throw new Error("tinyproxy does not listen");
    await sleep(20);
  }
  return {
    who: egressWho.tinyproxy,
    keepsNone: true,
    order: (order) => clientHere(argument(ports, order, port)),
    memory: async () => ({ "the proxy's process": await anonymousKiB([child.pid as number]) }),
    async close() {
      child.kill();
      await exited;
    },
  };
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  return port;
}

/** Guests of sandboxes with filtered network, and what they forked. */
async function guests(): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((entry) => /^\d+$/.test(entry));
  const found = await Promise.all(
    pids.map(async (pid) =>
      (await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")).includes("\0--proxy-port\0"),
    ),
  );
  return pids.filter((_pid, i) => found[i]).map(Number);
}

/** Of all together; what they share counts once, and programs' files not at all. */
async function anonymousKiB(pids: readonly number[]): Promise<number> {
  const each = await Promise.all(
    pids.map(async (pid) => {
      const text = await readFile(`/proc/${pid}/smaps_rollup`, "utf8").catch(() => "");
      return Number(/^Pss_Anon:\s+(\d+)/m.exec(text)?.[1] ?? 0);
    }),
  );
  return each.reduce((sum, kib) => sum + kib, 0);
}

/** What the kernel can't give back: sockets and descriptors are in it, and what else happens on the machine. */
async function kernelKiB(): Promise<number> {
  return Number(/^SUnreclaim:\s+(\d+)/m.exec(await readFile("/proc/meminfo", "utf8"))?.[1]);
}
