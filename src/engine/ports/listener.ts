import { createServer, isIPv6, type Socket } from "node:net";
import { WarrenError } from "../../contracts/errors.ts";
import type { StoredPort } from "../record.ts";
import { describe, portInUse } from "./admit.ts";

/** After this long without a byte the kernel asks whether a client is still there: one that has vanished says nothing. */
const PROBE_AFTER_MS = 30_000;

/** An open port of the engine's machine. */
export interface PortListener {
  /** The one that was asked for, or chosen. */
  readonly hostPort: number;
  /** Nobody listens from here on, and whatever came through it ends. */
  close(): void;
}

/** @throws WarrenError `port_in_use`, `permission_denied`, `invalid_request` */
export function listenTcp(port: StoredPort, onConnection: (client: Socket) => void): Promise<PortListener> {
  const clients = new Set<Socket>();
  const server = createServer(
    // Nothing is read of a client before there is somebody inside to take it.
    {
      pauseOnConnect: true,
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: PROBE_AFTER_MS,
    },
    (client) => {
      clients.add(client);
      client.once("close", () => clients.delete(client));
      client.on("error", () => {}); // it is the client's loss
      onConnection(client);
    },
  );
  return new Promise((resolve, reject) => {
    server.once("error", (cause) => reject(listenError(port, cause)));
    // An address is what it says: `::` is no way to write 0.0.0.0 as well.
    server.listen({ host: port.address, port: port.host_port, ipv6Only: isIPv6(port.address) }, () => {
      const bound = server.address();
      resolve({
        hostPort: typeof bound === "object" && bound !== null ? bound.port : port.host_port,
        close() {
          server.close();
          for (const client of clients) client.destroy();
        },
      });
    });
  });
}

export function listenError(port: StoredPort, cause: NodeJS.ErrnoException): WarrenError {
  switch (cause.code) {
    case "EADDRINUSE":
      return portInUse(port, "is in use by another program", { cause });
    case "EACCES":
      return new WarrenError("permission_denied", `the engine may not open ${describe(port)}`, {
        hint: "choose a host port from 1024 on",
        cause,
      });
    case "EADDRNOTAVAIL":
      return new WarrenError("invalid_request", `ports: this machine has no address ${port.address}`, {
        hint: "use 127.0.0.1, or one that `ip address` shows",
        cause,
      });
    default:
      return new WarrenError(
        "internal",
        `${describe(port)} can't be opened: ${cause.code ?? cause.message}`,
        { cause },
      );
  }
}
