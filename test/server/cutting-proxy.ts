import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

/**
 * How a connection is lost: reset; closed without a WebSocket's goodbye; cut within a frame, of which the first half still
 * comes; or silent for ever, with both ends open, as when a network forgets it.
 */
export const cuts = ["reset", "close", "halfFrame", "silence"] as const;
export type Cut = (typeof cuts)[number];

export interface CuttingProxy extends AsyncDisposable {
  url: string;
  /** Connections so far. */
  readonly count: number;
  /** Loses those that there are. */
  cut(how: Cut): void;
  /** Loses the connections, one after the other, each when it has carried that many bytes. */
  cutAfter(plan: Iterable<{ bytes: number; how: Cut }>): void;
  /** Whether new connections are taken; others are reset. */
  open(isOpen: boolean): void;
}

interface Pair {
  client: Socket;
  server: Socket;
  how: Cut | undefined;
}

/** A bad network in front of a port of this machine. */
export async function openCuttingProxy(port: number): Promise<CuttingProxy> {
  const pairs = new Set<Pair>();
  let plan: Iterator<{ bytes: number; how: Cut }> | undefined;
  let next: { bytes: number; how: Cut } | undefined;
  let isOpen = true;
  let count = 0;

  const lose = (pair: Pair, how: Cut) => {
    pair.how = how;
    if (how === "silence") return;
    for (const socket of [pair.client, pair.server]) {
      if (how === "reset") socket.resetAndDestroy();
      else socket.end(() => socket.destroy());
    }
    pairs.delete(pair);
  };

  const carry = (pair: Pair, chunk: Buffer, to: Socket) => {
    if (pair.how !== undefined) return;
    if (next && next.bytes <= chunk.length) {
      const { how } = next;
      next = plan?.next().value;
      if (how === "halfFrame") to.write(chunk.subarray(0, chunk.length / 2));
      lose(pair, how);
      return;
    }
    if (next) next.bytes -= chunk.length;
    const from = to === pair.server ? pair.client : pair.server;
    if (to.write(chunk)) return;
    from.pause();
    to.once("drain", () => from.resume());
  };

  const listener = createServer({ noDelay: true }, (client) => {
    client.on("error", () => {});
    if (!isOpen) {
      client.resetAndDestroy();
      return;
    }
    count += 1;
    const server = connect({ port, host: "127.0.0.1", noDelay: true });
    const pair: Pair = { client, server, how: undefined };
    pairs.add(pair);
    server.on("error", () => {});
    client.on("data", (chunk: Buffer) => carry(pair, chunk, server));
    server.on("data", (chunk: Buffer) => carry(pair, chunk, client));
    const ended = (other: Socket) => () => {
      if (pair.how !== "silence") other.destroySoon();
    };
    client.once("close", ended(server));
    server.once("close", ended(client));
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  return {
    url: `http://127.0.0.1:${(listener.address() as AddressInfo).port}`,
    get count() {
      return count;
    },
    cut(how) {
      for (const pair of pairs) lose(pair, how);
    },
    cutAfter(all) {
      plan = all[Symbol.iterator]();
      next = plan.next().value;
    },
    open(now) {
      isOpen = now;
    },
    async [Symbol.asyncDispose]() {
      for (const { client, server } of pairs) {
        client.destroy();
        server.destroy();
      }
      listener.close();
      await once(listener, "close");
    },
  };
}
