import { connect, type Socket } from "node:net";
import type { Host } from "../../lib/host-name.ts";
import type { Decision, EgressPolicy } from "./policy.ts";
import type { Resolve } from "./resolver.ts";

/** How long one address may take to answer. */
const DIAL_TIMEOUT_MS = 10_000;
/** Addresses of a name that are tried. */
const MOST_TRIES = 4;

/** Told for each connection that a sandbox asked for, before anything of it goes out. */
export interface EgressEvent extends Decision {
  /** As the client wrote it, made harmless. */
  host: string;
  port: number;
  /** That is dialled, when it came so far. */
  address?: string;
}

export type Opened =
  | { outcome: "open"; socket: Socket; host: Host; address: string; release(): void }
  | { outcome: "denied"; reason: string }
  | { outcome: "failed"; reason: string };

export interface Upstream {
  /** Decides, looks up, decides again on each address, and dials exactly that address. */
  open(host: string, port: number): Promise<Opened>;
  /** What the policy says without looking anything up. */
  decide(host: string, port: number): Decision;
  /** Ends connections that the policy of now would not allow. */
  enforce(): void;
  /** Ends all. */
  close(): void;
  readonly size: number;
}

export interface UpstreamOptions {
  policy: () => EgressPolicy;
  resolve: Resolve;
  onDecision: (event: EgressEvent) => void;
  /** Connections at one time. */
  most: number;
}

export function createUpstream({ policy, resolve, onDecision, most }: UpstreamOptions): Upstream {
  const live = new Set<{ host: Host; address: string; port: number; socket: Socket }>();
  let opening = 0;

  const tell = (text: string, port: number, decision: Decision, address?: string) => {
    const { allowed, cause, reason, rule, preset } = decision;
    onDecision({
      host: printable(text),
      port,
      allowed,
      cause,
      reason,
      ...(rule === undefined ? {} : { rule }),
      ...(preset === undefined ? {} : { preset }),
      ...(address === undefined ? {} : { address }),
    });
  };

  const open = async (text: string, port: number): Promise<Opened> => {
    const first = policy().decide(text, port);
    const { host } = first;
    if (!first.allowed || !host) {
      tell(text, port, first);
      return { outcome: "denied", reason: first.reason };
    }
    let addresses: string[];
    try {
      addresses = host.kind === "address" ? [host.address] : await resolve(host.name);
    } catch {
      return { outcome: "failed", reason: `the name ${text} can't be looked up` };
    }
    let denied: Decision | undefined;
    let failure = `${text} has no address`;
    for (const address of addresses.slice(0, MOST_TRIES)) {
      const decision = policy().decideAddress(host, address, port);
      if (!decision.allowed) {
        denied ??= decision;
        continue;
      }
      tell(text, port, decision, address);
      const socket = await dial(address, port).catch((error: NodeJS.ErrnoException) => {
        failure = `${text}:${port} can't be reached: ${error.code ?? "it does not answer"}`;
        return undefined;
      });
      if (!socket) continue;
      // The policy may have changed while it was dialled.
      if (!policy().decideAddress(host, address, port).allowed) {
        socket.destroy();
        return { outcome: "denied", reason: "the policy has changed" };
      }
      const entry = { host, address, port, socket };
      live.add(entry);
      const release = () => live.delete(entry);
      socket.once("close", release);
      return { outcome: "open", socket, host, address, release };
    }
    if (!denied) return { outcome: "failed", reason: failure };
    tell(text, port, denied);
    return { outcome: "denied", reason: denied.reason };
  };

  return {
    async open(text, port) {
      if (live.size + opening >= most)
        return { outcome: "failed", reason: "too many connections at one time" };
      opening++;
      try {
        return await open(text, port);
      } finally {
        opening--;
      }
    },
    decide: (text, port) => policy().decide(text, port),
    enforce() {
      for (const { host, address, port, socket } of live) {
        if (!policy().decideAddress(host, address, port).allowed) socket.destroy();
      }
    },
    close() {
      for (const { socket } of live) socket.destroy();
    },
    get size() {
      return live.size;
    },
  };
}

function dial(address: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: address, port, allowHalfOpen: true, noDelay: true });
    const fail = (error: Error) => {
      socket.destroy();
      reject(error);
    };
    socket.setTimeout(DIAL_TIMEOUT_MS, () =>
      fail(Object.assign(new Error("timeout"), { code: "ETIMEDOUT" })),
    );
    socket.once("error", fail);
    socket.once("connect", () => {
      socket.setTimeout(0);
      socket.removeListener("error", fail);
      resolve(socket);
    });
  });
}

/** What a client wrote goes into audit records and terminals. */
function printable(text: string): string {
  return text.replace(/[^\x21-\x7e]/g, "?").slice(0, 300);
}
