// node warm-cli.cjs CLI.JS CACHE: runs common commands of the CLI against a server that knows their answers, and writes V8's code of
// what they used. In CommonJS and with the same way of loading as src/cli/loader.cjs.
const { mkdtempSync, readFileSync, rmSync, writeFileSync } = require("node:fs");
const { createServer } = require("node:http");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const { Script } = require("node:vm");
const { WebSocketServer } = require("ws");

const [, , source, cache] = process.argv;
const dir = mkdtempSync(join(tmpdir(), "warren-warm-"));
const socket = join(dir, "engine.sock");
process.on("exit", () => rmSync(dir, { recursive: true, force: true }));

const sandbox = {
  id: "a1b2c3d4e5f6g7h8",
  name: "warm",
  image: "host",
  status: "running",
  created_at: new Date().toISOString(),
  labels: {},
};

const engine = createServer((request, response) => {
  const isList = /\/sandboxes(\?|$)/.test(request.url) && request.method === "GET";
  response.setHeader("content-type", "application/json");
  request.resume().on("end", () => response.end(JSON.stringify(isList ? [sandbox] : sandbox)));
});
const streams = new WebSocketServer({ server: engine, handleProtocols: () => "warren.v1" });
streams.on("connection", (stream) => {
  stream.once("message", () => {
    stream.send('{"type":"started"}');
    stream.send(Buffer.from("\x01warm\n"));
    stream.send('{"type":"exit","data":"0"}');
    stream.close(1000);
  });
});

const script = new Script(readFileSync(source).latin1Slice(), { filename: source });
const runIt = script.runInThisContext();
const reallyExit = process.exit.bind(process);

/** One command line. Each has the file's modules anew, and V8 keeps what it has compiled of them. */
function run(...args) {
  return new Promise((resolve, reject) => {
    process.argv = [process.execPath, source, ...args];
    process.exit = (code) =>
      code === 0 ? resolve() : reject(new Error(`warren ${args[0]} ended with ${code}`));
    runIt(require, source, () => Promise.reject(new Error("no command here needs the engine")));
  });
}

async function main() {
  await new Promise((resolve) => engine.listen(socket, resolve));
  const server = ["--server", `unix:${socket}`];
  const state = ["--state-dir", dir];
  await run("exec", ...state, sandbox.id, "true");
  await run("ls", ...state);
  await run("create", ...server, "--image", "host");
  await run("stop", ...server, sandbox.id);
  await run("rm", ...server, sandbox.id);
  writeFileSync(cache, script.createCachedData());
}

main().then(
  () => reallyExit(0),
  (error) => {
    process.stderr.write(`${error.stack}\n`);
    reallyExit(1);
  },
);
