import { spawn } from "node:child_process";
import { connect as connectSocket, type Socket } from "node:net";
import { Duplex } from "node:stream";
import { connect as connectTls } from "node:tls";
import { WarrenError } from "../../contracts/errors.ts";
import { lastWords } from "../../lib/last-words.ts";

/** Where a container engine's API is. */
export type Endpoint = (
  | { kind: "unix"; path: string }
  | { kind: "tcp"; host: string; port: number; tls?: TlsMaterial }
  /** A program that passes its stdin and stdout on to the API, one run for each connection. */
  | { kind: "command"; argv: readonly [string, ...string[]] }
) & {
  /** What helps when it can't be reached. */
  hint?(cause: NodeJS.ErrnoException | undefined): string;
};

/** PEM. */
export interface TlsMaterial {
  ca?: Buffer;
  cert?: Buffer;
  key?: Buffer;
}

/** Such as `unix:///run/podman/podman.sock`. */
export function describeEndpoint(endpoint: Endpoint): string {
  switch (endpoint.kind) {
    case "unix":
      return `unix://${endpoint.path}`;
    case "tcp":
      return `tcp://${endpoint.host}:${endpoint.port}`;
    case "command":
      return endpoint.argv.join(" ");
  }
}

/** How long a connection may take to be made. A command may have to start a virtual machine's session first. */
const CONNECT_TIMEOUT_MS = { unix: 5_000, tcp: 10_000, command: 30_000 } as const;
/** Bytes of a command's complaints that are kept. */
const MAX_COMPLAINT_BYTES = 16_384;

/**
 * A new connection. Half-close is told and possible in both directions.
 * @throws WarrenError `runtime_unavailable`
 */
export function openConnection(endpoint: Endpoint): Promise<Duplex> {
  if (endpoint.kind === "command") return Promise.resolve(runCommand(endpoint));
  return new Promise((resolve, reject) => {
    const socket: Socket =
      endpoint.kind === "unix"
        ? connectSocket({ path: endpoint.path, allowHalfOpen: true })
        : endpoint.tls
          ? connectTls({
              host: endpoint.host,
              port: endpoint.port,
              ALPNProtocols: ["http/1.1"],
              // Whatever the environment says: what is behind it is root somewhere.
              rejectUnauthorized: true,
              ...endpoint.tls,
            })
          : connectSocket({ host: endpoint.host, port: endpoint.port, allowHalfOpen: true });
    const fail = (cause?: Error) => {
      socket.destroy();
      reject(unreachable(endpoint, cause));
    };
    socket.setTimeout(CONNECT_TIMEOUT_MS[endpoint.kind], () => fail());
    socket.once("error", fail);
    socket.once(endpoint.kind === "tcp" && endpoint.tls ? "secureConnect" : "connect", () => {
      socket.setTimeout(0);
      socket.removeListener("error", fail);
      resolve(socket);
    });
  });
}

export function unreachable(endpoint: Endpoint, cause?: Error): WarrenError {
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  const why =
    code === "ENOENT"
      ? "there is no such socket"
      : code === "EACCES"
        ? "permission denied"
        : code === "ECONNREFUSED"
          ? "nothing listens there"
          : code === "ECONNRESET" || code === "EPIPE"
            ? "it went away"
            : cause
              ? lastWords(Buffer.from(cause.message))
              : "it does not answer";
  const hint = endpoint.hint?.(cause);
  return new WarrenError(
    "runtime_unavailable",
    `the container engine at ${describeEndpoint(endpoint)} can't be reached: ${why}`,
    { ...(cause === undefined ? {} : { cause }), ...(hint === undefined ? {} : { hint }) },
  );
}

/** stdin and stdout of a program as one stream; what it says on stderr becomes the error when it ends without an answer. */
function runCommand(endpoint: Extract<Endpoint, { kind: "command" }>): Duplex {
  const [program, ...args] = endpoint.argv;
  const hint = endpoint.hint?.(undefined);
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"], detached: true });
  const { stdin, stdout } = child;
  // Not Duplex.from(): one that is destroyed without an error makes one up, which nobody listens for by then.
  const stream = asSocket(
    new Duplex({
      allowHalfOpen: true,
      read: () => {
        stdout.resume();
      },
      // A program that takes nothing any more says why when it ends.
      write: (chunk, _encoding, callback) => {
        stdin.write(chunk, () => callback());
      },
      final: (callback) => {
        stdin.end(() => callback());
      },
      destroy: (error, callback) => {
        stdin.destroy();
        stdout.destroy();
        callback(error);
      },
    }),
  );
  stdin.on("error", () => {});
  stdout.on("error", () => {});
  stdout.on("data", (chunk: Buffer) => {
    if (!stream.push(chunk)) stdout.pause();
  });
  let complaint = Buffer.alloc(0);
  child.stderr.on("data", (chunk: Buffer) => {
    complaint = Buffer.concat([complaint, chunk]).subarray(-MAX_COMPLAINT_BYTES);
  });
  const fail = (what: string, cause?: Error) =>
    stream.destroy(
      new WarrenError("runtime_unavailable", `${program} ${what}`, {
        ...(cause === undefined ? {} : { cause }),
        ...(hint === undefined ? {} : { hint }),
      }),
    );
  child.once("error", (cause) => fail("can't be run", cause));
  child.once("close", (code, signal) => {
    if (stream.destroyed) return;
    if (code === 0) stream.push(null);
    else fail(`ended (${signal ?? code}): ${lastWords(complaint)}`);
  });
  stream.once("close", () => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      // It ended in this moment.
    }
  });
  return stream;
}

/** With what Node's HTTP calls of a kept connection. Timeouts are its callers' affair. */
function asSocket(stream: Duplex): Duplex {
  const nothing = () => stream;
  return Object.assign(stream, {
    setTimeout: nothing,
    setKeepAlive: nothing,
    setNoDelay: nothing,
    ref: nothing,
    unref: nothing,
  });
}
