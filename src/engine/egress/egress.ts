import type { Duplex } from "node:stream";
import type { Presets } from "../../lib/presets/presets.ts";
import { flow } from "../../lib/splice.ts";
import { createHttpProxy } from "./http-proxy.ts";
import { type Bindings, compileBindings, type LiveSecret } from "./intercept/bindings.ts";
import { createInterceptor, type InterceptionTls } from "./intercept/interceptor.ts";
import { compilePolicy, type Decision, type EgressPolicy, type EgressRules } from "./policy.ts";
import type { Resolve } from "./resolver.ts";
import { readSocksRequest, SOCKS_VERSION, socksReplies, socksReply } from "./socks.ts";
import { agrees, peek } from "./tunnel.ts";
import { createUpstream, type EgressEvent, type Opened } from "./upstream.ts";

interface Patience {
  firstByteMs: number;
  /** For the head of the first request, and of another one. */
  headMs: number;
  keepAliveMs: number;
  socksMs: number;
}

export interface EgressOptions {
  rules: EgressRules;
  /** What they stand for when rules are compiled. Default: as documented. */
  presets?: Presets;
  resolve: Resolve;
  onDecision: (event: EgressEvent) => void;
  /** What the engine adds to requests, and how. Absent: nothing. */
  secrets?: { all: readonly LiveSecret[]; tls: InterceptionTls };
  /** Connections at one time. Default 2048. */
  most?: number;
  /** How long a client may take, in milliseconds. Default: the constants of who waits. */
  patience?: Partial<Patience>;
}

/** The way out of one sandbox. */
export interface Egress {
  /** Serves one connection of a client inside, which speaks HTTP or SOCKS5 as to a proxy. Its errors are its own. */
  serve(client: Duplex): void;
  /** Serves one that believes to be connected to this host and port. */
  serveDirect(client: Duplex, host: string, port: number): void;
  /** Takes the place of the rules, for open connections too. */
  replace(rules: EgressRules): void;
  /** Takes the place of the secrets, for open connections too; for those that were given some at first. */
  replaceSecrets(secrets: readonly LiveSecret[]): void;
  explain(host: string, port: number): Decision;
  close(): void;
}

/** How long a client may take until its first byte. */
const FIRST_BYTE_TIMEOUT_MS = 60_000;
const HTTP_PORT = 80;

/** @throws WarrenError `invalid_request` for a rule that can't be read */
export function createEgress(options: EgressOptions): Egress {
  let policy: EgressPolicy = compilePolicy(options.rules, options.presets);
  const { most = 2048, patience = {} } = options;
  const clients = new Set<Duplex>();
  const upstream = createUpstream({
    policy: () => policy,
    resolve: options.resolve,
    onDecision: options.onDecision,
    most,
  });
  let bindings: Bindings = compileBindings(options.secrets?.all ?? []);
  const http = createHttpProxy({
    upstream,
    guard: {
      admit(to, url, fields) {
        const admitted = bindings.admit(to, url, fields);
        if ("status" in admitted) {
          const { host, port } = to;
          options.onDecision({ host, port, allowed: false, cause: "secret", reason: admitted.reason });
        }
        return admitted;
      },
    },
    onTunnel: (client, opened, port) => tunnel(client, opened, port),
    ...patience,
  });

  const interceptor =
    options.secrets &&
    createInterceptor({
      tls: options.secrets.tls,
      bindings: () => bindings,
      http,
      onDecision: options.onDecision,
    });

  /** The server may speak at once; what the client says first is looked at before the server hears of it. */
  const tunnel = (client: Duplex, opened: Extract<Opened, { outcome: "open" }>, port: number) => {
    const { socket, host } = opened;
    if (interceptor && bindings.intercepts(host, port)) return interceptor.take(client, opened, port);
    const answers = flow(socket, client);
    void peek(client).then((first) => {
      if (first.kind === "other" && first.rest && port !== HTTP_PORT) return void socket.end(first.rest);
      // Whoever speaks to this port in clear text speaks HTTP, however oddly it begins.
      if (first.kind === "http" || (first.kind === "other" && port === HTTP_PORT)) {
        // Each of its requests is checked for where it goes, on connections of its own.
        answers.stop();
        socket.destroy();
        return http.serve(client, { host: host.kind === "name" ? host.name : bracket(host.address), port });
      }
      const mismatch = (named: string, reason: string) => {
        options.onDecision({ host: named, port, allowed: false, cause: "mismatch", reason });
        socket.destroy();
        client.destroy();
      };
      const name = host.kind === "name" ? host.name : host.address;
      if (first.kind === "broken") {
        return mismatch(name, "what it begins with can be read in more than one way");
      }
      if (first.kind === "tls" && !agrees(host, first.serverName)) {
        const named = first.serverName?.replace(/[^\x21-\x7e]/g, "?") ?? "";
        return mismatch(named, "the TLS server name is not the host that the connection was made for");
      }
      flow(client, socket);
    });
  };

  const direct = async (
    client: Duplex,
    host: string,
    port: number,
    granted: () => void,
    refused: (opened: Opened) => void,
  ) => {
    const opened = await upstream.open(host, port);
    if (opened.outcome !== "open") return refused(opened);
    if (client.destroyed) return void opened.socket.destroy();
    granted();
    tunnel(client, opened, port);
  };

  const socks = async (client: Duplex) => {
    const request = await readSocksRequest(client, patience.socksMs);
    if (!request) return;
    await direct(
      client,
      request.host,
      request.port,
      () => client.write(socksReply(socksReplies.ok)),
      (opened) =>
        client.end(socksReply(opened.outcome === "denied" ? socksReplies.denied : socksReplies.unreachable)),
    );
  };

  /** Counts a client, unless there are too many: each costs memory and a descriptor, whatever it does. */
  const take = (client: Duplex): boolean => {
    client.on("error", () => {}); // it is the client's loss
    if (clients.size >= most) {
      client.destroy();
      return false;
    }
    clients.add(client);
    client.once("close", () => clients.delete(client));
    return true;
  };

  return {
    serve(client) {
      if (!take(client)) return;
      const timer = setTimeout(() => client.destroy(), patience.firstByteMs ?? FIRST_BYTE_TIMEOUT_MS);
      client.once("close", () => clearTimeout(timer));
      client.once("readable", () => {
        clearTimeout(timer);
        const first: Buffer | null = client.read();
        if (!first?.length) return void client.destroy();
        client.unshift(first);
        if (first[0] === SOCKS_VERSION) void socks(client);
        else http.serve(client);
      });
    },
    serveDirect(client, host, port) {
      if (!take(client)) return;
      void direct(
        client,
        host,
        port,
        () => {},
        () => client.destroy(),
      );
    },
    replace(rules) {
      policy = compilePolicy(rules, options.presets);
      upstream.enforce();
    },
    replaceSecrets(secrets) {
      bindings = compileBindings(secrets);
      interceptor?.refresh();
    },
    explain: (host, port) => policy.decide(host, port),
    close() {
      http.close();
      upstream.close();
      for (const client of clients) client.destroy();
    },
  };
}

function bracket(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}
