import { Agent } from "node:http";
import type { Duplex } from "node:stream";
import { connect as connectTls, type TLSSocket } from "node:tls";
import type { DecisionCause } from "../../../contracts/network.ts";
import type { Host } from "../../../lib/host-name.ts";
import { refuse } from "../guard.ts";
import { type HttpProxy, RefusedError } from "../http-proxy.ts";
import { agrees, peek } from "../tunnel.ts";
import type { EgressEvent, Opened } from "../upstream.ts";
import type { Authority } from "./authority.ts";
import type { Bindings } from "./bindings.ts";
import { createHandshakes } from "./handshakes.ts";
import { bridgeHttp2 } from "./http2.ts";
import type { Roots } from "./roots.ts";

/** How long each side may take to agree on keys. */
const HANDSHAKE_TIMEOUT_MS = 30_000;

/** What TLS that ends at the engine needs; of the engine, not of a sandbox. */
export interface InterceptionTls {
  authority: () => Promise<Authority>;
  roots: Roots;
}

export interface InterceptorOptions {
  tls: InterceptionTls;
  bindings: () => Bindings;
  http: HttpProxy;
  onDecision: (event: EgressEvent) => void;
}

export interface Interceptor {
  /** Takes a client that was granted a connection to a host with a secret. */
  take(client: Duplex, opened: Extract<Opened, { outcome: "open" }>, port: number): void;
  /** Ends connections to hosts that have no secret any more. */
  refresh(): void;
}

/**
 * Stands between a client and one server: the client's TLS ends here, and another begins to the very address that was allowed,
 * with a server that proves to be the host that was asked for. Each client has its own connection to it, in the same version
 * of HTTP, so that nothing of one request can reach another server than the one it was looked at for.
 */
export function createInterceptor({ tls, bindings, http, onDecision }: InterceptorOptions): Interceptor {
  const live = new Set<{ host: Host; port: number; client: Duplex }>();
  const handshakes = createHandshakes(HANDSHAKE_TIMEOUT_MS);

  const take = async (
    client: Duplex,
    { socket, host }: Extract<Opened, { outcome: "open" }>,
    port: number,
  ) => {
    const name = host.kind === "name" ? host.name : host.address;
    const text = name.includes(":") ? `[${name}]` : name;
    const entry = { host, port, client };
    live.add(entry);
    client.once("close", () => {
      live.delete(entry);
      socket.destroy();
    });
    const leave = () => client.destroy();
    socket.once("close", leave);
    socket.on("error", () => {});
    const deny = (reason: string, cause: DecisionCause = "secret") =>
      onDecision({ host: name, port, allowed: false, cause, reason });

    const first = await peek(client);
    if (client.destroyed) return;
    if (first.kind === "http") {
      // Looked at request by request: this is refused, unless the secret is bound without TLS too.
      socket.off("close", leave).destroy();
      return http.serve(client, { host: text, port });
    }
    if (first.kind !== "tls" || !agrees(host, first.serverName)) {
      if (first.kind === "tls") {
        deny("the TLS server name is not the host that the connection was made for", "mismatch");
      } else deny("a host with a secret is spoken to over TLS only");
      return leave();
    }
    // From here on a server that goes is told by its TLS.
    socket.off("close", leave);
    const server = await reach({ socket, host, name, offered: first.protocols ?? [] });
    if (client.destroyed) return;
    const identity = await (await tls.authority()).identityOf(host);
    if (client.destroyed) return;
    if ("reason" in server) deny(server.reason);
    const protocol = "reason" in server ? "http/1.1" : server.protocol;
    const inner = await handshakes
      .accept(client, identity, protocol)
      .catch((error: NodeJS.ErrnoException) => {
        if (/ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_UNKNOWN)/.test(error.code ?? "")) {
          deny("the program has its own list of whom it trusts, and the engine's authority is not in it");
        }
        client.destroy();
      });
    if (!inner || inner.destroyed) return leave();
    inner.on("error", leave).once("close", leave);
    if ("reason" in server) {
      return http.serve(inner, { host: text, port, agent: createRefuser(server.reason) });
    }
    const { outer } = server;
    outer.once("close", () => inner.end());
    if (outer.destroyed) return leave();
    if (protocol === "http/1.1") return http.serve(inner, { host: text, port, agent: createPinned(outer) });
    bridgeHttp2({ inner, outer, origin: { host: text, port, isSecure: true }, guard: bindings, deny });
  };

  /** TLS with the server, in a protocol that the client offers. */
  const reach = async ({
    socket,
    host,
    name,
    offered,
  }: ReachOptions): Promise<Reached | { reason: string }> => {
    const secureContext = await tls.roots().catch(() => undefined);
    if (!secureContext) return { reason: "the certificates that the engine trusts can't be read" };
    const wanted = ["h2", "http/1.1"].filter((protocol) => offered.includes(protocol));
    return await new Promise((resolve) => {
      const outer = connectTls({
        socket,
        secureContext,
        // An address has no server name (RFC 6066, 3), and is checked all the same.
        ...(host.kind === "name" ? { servername: host.name } : { host: host.address }),
        ALPNProtocols: wanted.length > 0 ? wanted : ["http/1.1"],
        rejectUnauthorized: true,
      });
      const timer = setTimeout(() => fail({ code: "ETIMEDOUT" }), HANDSHAKE_TIMEOUT_MS);
      const fail = ({ code }: NodeJS.ErrnoException | { code?: string }) => {
        clearTimeout(timer);
        outer.destroy();
        resolve({ reason: `${name} does not prove to be that host: ${code ?? "no TLS"}` });
      };
      outer.once("error", fail);
      outer.once("secureConnect", () => {
        clearTimeout(timer);
        outer.off("error", fail).on("error", () => outer.destroy());
        resolve({ outer, protocol: outer.alpnProtocol === "h2" ? "h2" : "http/1.1" });
      });
    });
  };

  return {
    take(client, opened, port) {
      take(client, opened, port).catch(() => client.destroy());
    },
    refresh() {
      for (const { host, port, client } of live) {
        if (!bindings().intercepts(host, port)) client.destroy();
      }
    },
  };
}

interface ReachOptions {
  socket: Extract<Opened, { outcome: "open" }>["socket"];
  host: Host;
  name: string;
  offered: readonly string[];
}

interface Reached {
  outer: TLSSocket;
  protocol: "h2" | "http/1.1";
}

/** Has one connection, and never another. */
function createPinned(outer: TLSSocket): Agent {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  let isGiven = false;
  agent.createConnection = (_options, callback) => {
    if (isGiven) return fail(callback, "the server has closed the connection");
    isGiven = true;
    return outer;
  };
  return agent;
}

function createRefuser(reason: string): Agent {
  const agent = new Agent();
  agent.createConnection = (_options, callback) => fail(callback, reason);
  return agent;
}

function fail(
  callback: ((error: Error | null, stream: Duplex) => void) | undefined,
  reason: string,
): undefined {
  // Not before the agent has the request.
  setImmediate(() => callback?.(new RefusedError(refuse(502, reason)), undefined as unknown as Duplex));
  return undefined;
}
