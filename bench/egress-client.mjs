// Run by phases/egress.ts, beside the server and inside sandboxes: a client of egress-server.mjs, through a proxy or without.
// argv: the order as JSON. Says what it measured as JSON.
import { once } from "node:events";
import http from "node:http";
import net from "node:net";
import tls from "node:tls";

const { what, proxy, ports, count, atOnce } = JSON.parse(process.argv[2]);
const HOST = "127.0.0.1";
const timed = async (task) => {
  const start = performance.now();
  await task();
  return performance.now() - start;
};

/** A connection to this port of the server. */
async function open(port) {
  const socket = net.connect({ host: HOST, port: proxy ?? port, allowHalfOpen: true, noDelay: true });
  // What breaks it shows where something is waited for.
  socket.on("error", () => {});
  if (!proxy) {
    await once(socket, "connect");
    return socket;
  }
  socket.write(`CONNECT ${HOST}:${port} HTTP/1.1\r\nHost: ${HOST}:${port}\r\n\r\n`);
  let head = "";
  while (!head.includes("\r\n\r\n")) {
    const [chunk] = await ended(socket, "data");
    head += chunk.toString("latin1");
  }
  if (!/^HTTP\/1\.[01] 200/.test(head)) throw new Error(head.split("\r\n")[0]);
  socket.pause();
  return socket;
}

/** The event, or an error when the connection is over before. */
function ended(socket, event) {
  return new Promise((resolve, reject) => {
    const lost = () => reject(new Error("the connection is over"));
    socket.once("close", lost).once("end", lost);
    socket.once(event, (...args) => {
      socket.off("close", lost).off("end", lost);
      resolve(args);
    });
    socket.resume();
  });
}

/** One HTTPS request on a connection of its own. */
async function request() {
  const socket = tls.connect({ socket: await open(ports.https), rejectUnauthorized: false });
  socket.on("error", () => {});
  socket.write("GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
  let text = "";
  for await (const chunk of socket) text += chunk.toString("latin1");
  if (!text.startsWith("HTTP/1.1 200")) throw new Error(`answered with ${JSON.stringify(text.slice(0, 50))}`);
  socket.destroy();
}

/** One HTTP request on a kept connection. */
function keptRequest(agent) {
  return new Promise((resolve, reject) => {
    const target = proxy
      ? { port: proxy, path: `http://${HOST}:${ports.http}/`, headers: { host: `${HOST}:${ports.http}` } }
      : { port: ports.http, path: "/" };
    http
      .get({ host: HOST, agent, ...target }, (response) => {
        if (response.statusCode !== 200) reject(new Error(`answered with ${response.statusCode}`));
        response.resume().once("end", resolve).once("error", reject);
      })
      .once("error", reject);
  });
}

// What is written ends a line: the proxy waits while letters alone may still become a request.
async function echo(socket) {
  socket.write("echo\n");
  await ended(socket, "data");
}

/** Does it so often, so many at a time; how many failed. */
async function repeat(task) {
  let left = count;
  let failures = 0;
  const worker = async () => {
    while (left-- > 0) await task().catch(() => failures++);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return failures;
}

const orders = {
  /** Milliseconds of each. */
  async latency() {
    for (let i = 0; i < 5; i++) await request();
    const samples = [];
    for (let i = 0; i < count; i++) samples.push(await timed(request));
    return samples;
  },
  async httpsRate() {
    let failures = 0;
    const ms = await timed(async () => {
      failures = await repeat(request);
    });
    return { perSecond: (count / ms) * 1000, failures };
  },
  async httpRate() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: atOnce });
    let failures = 0;
    const ms = await timed(async () => {
      failures = await repeat(() => keptRequest(agent));
    });
    agent.destroy();
    return { perSecond: (count / ms) * 1000, failures };
  },
  /**
   * So many connections at once, each of which carries a message both ways, and as many more when the bench says so; they stay
   * until the server ends them.
   */
  async hold() {
    let failures = 0;
    const over = [];
    const connect = async () => {
      try {
        const socket = await open(ports.raw);
        await echo(socket);
        over.push(once(socket, "end").then(() => socket.destroy()));
      } catch {
        failures++;
      }
    };
    const some = () => timed(() => Promise.all(Array.from({ length: count }, connect)));
    const bench = await open(ports.raw);
    const ms = await some();
    bench.write("h\n");
    await ended(bench, "data");
    await some();
    bench.write("h\n");
    await Promise.all([...over, once(bench.resume(), "end")]);
    return { ms, failures };
  },
  /** So many connections one after the other, some at a time. */
  async churn() {
    return {
      failures: await repeat(async () => {
        const socket = await open(ports.raw);
        await echo(socket);
        socket.destroy();
      }),
    };
  },
  /** MB/s of so many MiB each way. */
  async throughput() {
    const order = (letter) => {
      const bytes = Buffer.from(`${letter}....`);
      bytes.writeUInt32BE(count, 1);
      return bytes;
    };
    const rate = (ms) => (count * 2 ** 20) / 1e6 / (ms / 1000);
    const down = await timed(async () => {
      const socket = await open(ports.raw);
      let bytes = 0;
      socket.on("data", (chunk) => {
        bytes += chunk.length;
      });
      socket.write(order("d"));
      socket.resume();
      await once(socket, "end");
      socket.destroy();
      if (bytes !== count << 20) throw new Error(`${bytes} bytes came`);
    });
    const up = await timed(async () => {
      const socket = await open(ports.raw);
      const piece = Buffer.alloc(1 << 20);
      socket.write(order("u"));
      for (let i = 0; i < count; i++) if (!socket.write(piece)) await once(socket, "drain");
      await ended(socket, "data");
      socket.destroy();
    });
    return { down: rate(down), up: rate(up) };
  },
};

process.stdout.write(JSON.stringify(await orders[what]()));
process.exit();
