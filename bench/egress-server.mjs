// Run by phases/egress.ts: what the clients of egress-client.mjs reach. Ports by IPC; argv: certificate and key files.
import { readFileSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import net from "node:net";

const MiB = Buffer.alloc(1 << 20);
const BACKLOG = 4096;
/** Bytes that a client may be ahead in HTTP/2: what servers that take uploads give. */
const WINDOW = 4 << 20;
const raw = new Set();
/** Of the client that holds the others. */
let bench;

/**
 * A connection's first byte says what is wanted: `e` echo, `h` (and each further byte) to tell the bench that all others are there, `d` and a u32 so many
 * MiB, `u` and a u32 a byte once so many MiB have come.
 */
const rawServer = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
  raw.add(socket);
  socket.on("error", () => socket.destroy()).once("close", () => raw.delete(socket));
  socket.once("data", (first) => {
    const wanted = String.fromCharCode(first[0]);
    if (wanted === "e") {
      socket.write(first);
      socket.pipe(socket);
    } else if (wanted === "h") {
      bench = socket;
      const tell = () => process.send({ open: raw.size - 1 });
      tell();
      socket.on("data", tell);
    } else if (wanted === "d") {
      let left = first.readUInt32BE(1);
      const send = () => {
        while (left-- > 0) {
          if (!socket.write(MiB)) return void socket.once("drain", send);
        }
        socket.end();
      };
      send();
      socket.resume();
    } else {
      let left = first.readUInt32BE(1) * MiB.length + 5 - first.length;
      socket.on("data", (chunk) => {
        left -= chunk.length;
        if (left === 0) socket.end("u");
      });
    }
  });
});
/** `/` says hello, `/N` sends so many MiB, and what is sent with POST is answered when all of it has come. */
function answer(request, response) {
  if (request.method === "POST") return void request.resume().once("end", () => response.end("all\n"));
  let left = Number(request.url.slice(1));
  if (left === 0) return void response.end("hello\n");
  response.setHeader("content-length", left * MiB.length);
  const send = () => {
    while (left-- > 0) {
      if (!response.write(MiB)) return void response.once("drain", send);
    }
    response.end();
  };
  send();
}
const [cert, key] = process.argv.slice(2, 4).map((path) => readFileSync(path));
const secure = () =>
  http2.createSecureServer({ cert, key, allowHTTP1: true, settings: { initialWindowSize: WINDOW } }, answer);
// The same twice: a sandbox has a secret for the last one, whose host may then not be spoken to in clear.
const servers = [secure(), http.createServer(answer), rawServer, secure()];
for (const server of [servers[0], servers[3]])
  server.on("session", (session) => session.setLocalWindowSize(WINDOW));

const ports = await Promise.all(
  servers.map(
    (server, i) =>
      new Promise((resolve, reject) => {
        server.once("error", reject);
        const host = i === servers.length - 1 ? "127.0.0.2" : "127.0.0.1";
        server.listen({ port: 0, host, backlog: BACKLOG }, () => resolve(server.address().port));
      }),
  ),
);
process.on("message", (message) => {
  if (message === "more") return void bench?.write("m");
  for (const socket of raw) socket.destroy();
  process.send({ open: 0 });
});
process.on("disconnect", () => process.exit());
process.send(ports);
