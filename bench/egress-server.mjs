// Run by phases/egress.ts: what the clients of egress-client.mjs reach. Ports by IPC; argv: certificate and key files.
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import net from "node:net";

const MiB = Buffer.alloc(1 << 20);
const BACKLOG = 4096;
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
const answer = (_request, response) => response.end("hello\n");
const [cert, key] = process.argv.slice(2, 4).map((path) => readFileSync(path));
const servers = [https.createServer({ cert, key }, answer), http.createServer(answer), rawServer];

const ports = await Promise.all(
  servers.map(
    (server) =>
      new Promise((resolve, reject) => {
        server.once("error", reject);
        server.listen({ port: 0, host: "127.0.0.1", backlog: BACKLOG }, () => resolve(server.address().port));
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
