import type { Duplex } from "node:stream";
import { createServer, type Server, type TLSSocket } from "node:tls";
import type { Identity } from "./authority.ts";

/** Servers that are kept of one identity and protocol: as many handshakes at a time begin at once. */
const MOST_IDLE = 8;

/**
 * TLS with clients to which the engine is the host that they ask for. To read key and certificate takes as long as half a handshake, so
 * that servers, which never listen, are used again. Each has one handshake at a time: what it tells then is about that.
 */
export function createHandshakes(timeoutMs: number) {
  const idle = new WeakMap<Identity, Map<string, Server[]>>();

  const idleOf = (identity: Identity, protocol: string): Server[] => {
    const ofIdentity = idle.get(identity) ?? new Map<string, Server[]>();
    idle.set(identity, ofIdentity);
    const servers = ofIdentity.get(protocol) ?? [];
    ofIdentity.set(protocol, servers);
    return servers;
  };

  return {
    /** @throws the client's or the server's error, or one that says that the client has gone */
    accept(client: Duplex, identity: Identity, protocol: string): Promise<TLSSocket> {
      const others = idleOf(identity, protocol);
      const server =
        others.pop() ??
        createServer({
          ...identity,
          minVersion: "TLSv1.2",
          ALPNProtocols: [protocol],
          handshakeTimeout: timeoutMs,
          allowHalfOpen: true,
        });
      return new Promise((resolve, reject) => {
        // One of both comes, and once.
        const over = () => {
          server.off("secureConnection", onSecure).off("tlsClientError", onError);
          if (others.length < MOST_IDLE) others.push(server);
        };
        const onSecure = (socket: TLSSocket) => {
          over();
          resolve(socket);
        };
        const onError = (error: Error) => {
          over();
          reject(error);
        };
        server.on("secureConnection", onSecure).on("tlsClientError", onError);
        client.once("close", () => reject(new Error("the client has gone")));
        server.emit("connection", client);
      });
    },
  };
}
