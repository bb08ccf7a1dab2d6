// Run by phases/egress.ts, beside the server and inside sandboxes: a client of egress-server.mjs, through a proxy or without.
// argv: the order as JSON. Says what it measured as JSON.
import { once } from "node:events";
import http from "node:http";
import http2 from "node:http2";
import net from "node:net";
import tls from "node:tls";

const { what, proxy, host: HOST, ports, count, atOnce } = JSON.parse(process.argv[2]);
/** Bytes that the server may be ahead in HTTP/2. Browsers and curl give as much or more. */
const WINDOW = 4 << 20;
const rate = (ms) => (count * 2 ** 20) / 1e6 / (ms / 1000);
const timed = async (task) => {
  const start = performance.now();
  await task();
  return performance.now() - start;
};

/** A connection to this port of the server. */
async function open(port) {
  const socket = net.connect({
    host: proxy ? "127.0.0.1" : HOST,
    port: proxy ?? port,
    allowHalfOpen: true,
    noDelay: true,
  });
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

/** TLS in this protocol. Whose it is, the server's or the engine's, is not what is measured. */
async function secure(protocol) {
  const socket = tls.connect({
    socket: await open(ports.https),
    rejectUnauthorized: false,
    ALPNProtocols: [protocol],
  });
  socket.on("error", () => {});
  return socket;
}

/** One HTTPS request on a connection of its own. */
async function request() {
  const socket = await secure("http/1.1");
  socket.write(`GET / HTTP/1.1\r\nHost: ${HOST}:${ports.https}\r\nConnection: close\r\n\r\n`);
  let text = "";
  for await (const chunk of socket) text += chunk.toString("latin1");
  if (!text.startsWith("HTTP/1.1 200")) throw new Error(`answered with ${JSON.stringify(text.slice(0, 50))}`);
  socket.destroy();
}

/** Sends so many MiB, and does not wait for them to arrive. */
async function send(stream) {
  const piece = Buffer.alloc(1 << 20);
  for (let i = 0; i < count; i++) if (!stream.write(piece)) await once(stream, "drain");
}

const HEADER_END = "\r\n\r\n";

/** By hand, so that little of what is measured is this client. */
async function http1(way) {
  const socket = await secure("http/1.1");
  const length = way === "up" ? `Content-Length: ${count << 20}\r\n` : "";
  const line = way === "up" ? "POST / HTTP/1.1" : `GET /${count} HTTP/1.1`;
  socket.write(`${line}\r\nHost: ${HOST}:${ports.https}\r\nConnection: close\r\n${length}\r\n`);
  if (way === "up") await send(socket);
  let head;
  let bytes = 0;
  for await (const chunk of socket) {
    bytes += chunk.length;
    if (head !== undefined) continue;
    const end = chunk.indexOf(HEADER_END);
    if (end < 0) throw new Error("a header in pieces");
    head = chunk.toString("latin1", 0, end);
    bytes -= end + HEADER_END.length;
  }
  if (!head.startsWith("HTTP/1.1 200")) throw new Error(head);
  return bytes;
}

async function http2Exchange(way) {
  const socket = await secure("h2");
  const authority = `https://${HOST}:${ports.https}`;
  const session = http2.connect(authority, {
    createConnection: () => socket,
    settings: { initialWindowSize: WINDOW },
  });
  session.once("connect", () => session.setLocalWindowSize(WINDOW));
  session.on("error", () => {});
  const stream = session.request(
    way === "up" ? { ":method": "POST", ":path": "/" } : { ":path": `/${count}` },
  );
  if (way === "up") await send(stream);
  stream.end();
  const [headers] = await once(stream, "response");
  if (headers[":status"] !== 200) throw new Error(`answered with ${headers[":status"]}`);
  let bytes = 0;
  for await (const chunk of stream) bytes += chunk.length;
  session.destroy();
  return bytes;
}

/** One HTTP request on a kept connection. */
function keptRequest(agent) {
  return new Promise((resolve, reject) => {
    const target = proxy
      ? { port: proxy, path: `http://${HOST}:${ports.http}/`, headers: { host: `${HOST}:${ports.http}` } }
      : { port: ports.http, path: "/" };
    http
      .get({ host: "127.0.0.1", agent, ...target }, (response) => {
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
  /** MB/s of so many MiB each way over HTTPS. */
  async httpsThroughput() {
    const rates = {};
    for (const [protocol, exchange] of [
      ["HTTP/1.1", http1],
      ["HTTP/2", http2Exchange],
    ]) {
      for (const way of ["down", "up"]) {
        const ms = await timed(async () => {
          const bytes = await exchange(way);
          if (way === "down" && bytes !== count << 20) throw new Error(`${bytes} bytes came`);
        });
        rates[protocol] = { ...rates[protocol], [way]: rate(ms) };
      }
    }
    return rates;
  },
  /** MB/s of so many MiB each way. */
  async throughput() {
    const order = (letter) => {
      const bytes = Buffer.from(`${letter}....`);
      bytes.writeUInt32BE(count, 1);
      return bytes;
    };
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
      socket.write(order("u"));
      await send(socket);
      await ended(socket, "data");
      socket.destroy();
    });
    return { down: rate(down), up: rate(up) };
  },
};

process.stdout.write(JSON.stringify(await orders[what]()));
process.exit();
