import { lookup } from "node:dns/promises";
import { chmodSync } from "node:fs";
import { lstat, unlink } from "node:fs/promises";
import { connect, type Server } from "node:net";
import { WarrenError } from "../contracts/errors.ts";

/** sun_path of unix(7) holds 108 bytes, a closing NUL among them. */
const MAX_SOCKET_PATH_BYTES = 107;

/** The first address that `host` stands for. */
export async function resolveHost(host: string): Promise<string> {
  try {
    return (await lookup(host)).address;
  } catch (cause) {
    throw new WarrenError("invalid_request", `the host ${JSON.stringify(host)} can't be resolved`, { cause });
  }
}

/** Starts listening on TCP; resolves with the port, which matters where 0 was asked for. */
export async function listenOnTcp(server: Server, address: string, port: number): Promise<number> {
  await listening(server, () => server.listen({ host: address, port }));
  const bound = server.address();
  return typeof bound === "object" && bound !== null ? bound.port : port;
}

/**
 * Starts listening on a Unix socket that only our own user can connect to. A socket that nobody answers on is replaced.
 * @throws WarrenError `engine_locked` when somebody answers, `file_exists` when something else is there.
 */
export async function listenOnUnix(server: Server, path: string): Promise<void> {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
    throw new WarrenError(
      "invalid_path",
      `the socket path ${path} is longer than ${MAX_SOCKET_PATH_BYTES} bytes`,
      {
        hint: "choose a shorter state directory",
      },
    );
  }
  await removeStale(path);
  await listening(server, () => {
    // bind and listen happen inside this call, so no other user can connect before the mode is right.
    const before = process.umask(0o077);
    try {
      server.listen(path);
    } finally {
      process.umask(before);
    }
  });
  chmodSync(path, 0o600);
}

async function removeStale(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (!found) return;
  if (!found.isSocket()) throw new WarrenError("file_exists", `${path} exists and is not a socket`);
  if (await answers(path)) throw new WarrenError("engine_locked", `another server listens on ${path}`);
  await unlink(path);
}

/** True unless the kernel says that nobody listens: what can't be told must not be replaced. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", (error: NodeJS.ErrnoException) => resolve(error.code !== "ECONNREFUSED"));
  });
}

function listening(server: Server, listen: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (cause: NodeJS.ErrnoException) => {
      server.off("listening", ready);
      reject(describeListenError(cause));
    };
    const ready = () => {
      server.off("error", failed);
      resolve();
    };
    server.once("error", failed);
    server.once("listening", ready);
    listen();
  });
}

function describeListenError(
  cause: NodeJS.ErrnoException & { port?: number; address?: string },
): WarrenError {
  if (cause.code === "EADDRINUSE") {
    return new WarrenError("engine_locked", `the address ${cause.address}:${cause.port ?? ""} is in use`, {
      cause,
      hint: "choose another port, or 0 for a free one",
    });
  }
  if (cause.code === "EACCES") {
    // libuv tells a missing folder of a Unix socket with the same code.
    const reason = cause.address?.startsWith("/")
      ? "it is not permitted, or its folder is missing"
      : "it is not permitted";
    return new WarrenError(
      "permission_denied",
      `can't listen on ${cause.address ?? "that address"}: ${reason}`,
      {
        cause,
      },
    );
  }
  return new WarrenError("invalid_request", `can't listen there: ${cause.code ?? cause.message}`, { cause });
}
