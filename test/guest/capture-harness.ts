import { query } from "./dns-messages.ts";
import { collect, type GuestOptions, startGuest, type TestGuest } from "./harness.ts";

/** A guest that captures, in a network namespace of its own. */
export function startCapturing(options: GuestOptions = {}): Promise<TestGuest> {
  return startGuest({
    wrapper: ["unshare", "--user", "--map-root-user", "--net"],
    ...options,
    args: ["--proxy-port", "3128", "--capture-port", "3129", ...(options.args ?? [])],
  });
}

/** Runs JavaScript inside, which prints JSON; `args` are its `input`. */
export async function inside<T>(guest: TestGuest, code: string, input?: unknown): Promise<T> {
  const prelude = `const net = require("node:net"), dgram = require("node:dgram"), dns = require("node:dns");
    const input = JSON.parse(process.argv[1]); const print = (value) => console.log(JSON.stringify(value));`;
  const session = await guest.client.spawn({
    argv: [process.execPath, "-e", `${prelude}(async () => {${code}})()`, JSON.stringify(input ?? null)],
    env: {},
    timeoutMs: 50_000,
  });
  const { stdout, stderr, exit_code } = await collect(session);
  if (exit_code !== 0) throw new Error(`${exit_code}: ${stderr}${stdout}`);
  return JSON.parse(stdout) as T;
}

/** Asked behind each query, since it is answered wherever it comes: what has no answer by then has none. */
const LATER_ID = 0x7e57;

/** Queries by UDP, each to a server, and the answers; null: none. */
export async function ask(
  guest: TestGuest,
  queries: readonly { bytes: Buffer; server?: string }[],
): Promise<(Buffer | null)[]> {
  const answers = await inside<(string | null)[]>(
    guest,
    `print(await Promise.all(input.map(({ bytes, later, server }) => new Promise((resolve) => {
      const socket = dgram.createSocket(net.isIPv6(server) ? "udp6" : "udp4");
      const end = (value) => { clearInterval(timer); socket.close(); resolve(value); };
      const ask = () => { for (const query of [bytes, later]) socket.send(Buffer.from(query, "base64")); };
      // Where many come at once some may be lost.
      const timer = setInterval(ask, 1000);
      socket.on("error", (error) => end(error.code));
      // A connected socket takes answers from where it asked only.
      socket.connect(53, server, ask);
      socket.once("message", (message) => end(message.readUInt16BE(0) === ${LATER_ID} ? null : message.toString("base64")));
    }))))`,
    queries.map(({ bytes, server = "192.0.2.53" }) => ({
      bytes: bytes.toString("base64"),
      later: query("localhost", { id: LATER_ID }).toString("base64"),
      server,
    })),
  );
  return answers.map((answer) => (answer === null ? null : Buffer.from(answer, "base64")));
}
