import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { isIPv6 } from "node:net";
import type { DatagramPort, DatagramSink } from "../../guest/datagrams.ts";
import type { StoredPort } from "../record.ts";
import { listenError, type PortListener } from "./listener.ts";

/** Clients of one port at one time, as many as the guest keeps apart; the one that was silent longest makes room. */
const MOST_FLOWS = 256;
/** A client that neither sent nor got anything for so long has gone, as far as anybody can tell (RFC 4787 asks for 2 minutes). */
const IDLE_MS = 120_000;
const SWEEP_MS = 15_000;
/** What may wait in the socket for clients; beyond it answers are lost. */
const MOST_QUEUED_BYTES = 4 << 20;
/** Datagrams that wait until the guest has been reached, and until it is asked again when it was not. */
const MOST_EARLY = 64;
const RETRY_MS = 200;

interface Flow {
  id: number;
  address: string;
  port: number;
  lastAt: number;
}

/** @throws WarrenError `port_in_use`, `permission_denied`, `invalid_request` */
export function listenUdp(
  port: StoredPort,
  openInside: (sink: DatagramSink) => Promise<DatagramPort>,
): Promise<PortListener> {
  const v6 = isIPv6(port.address);
  // Two sockets of one port would share its datagrams, so nobody gets one that somebody has.
  const socket = createSocket({ type: v6 ? "udp6" : "udp4", ipv6Only: v6, reuseAddr: false });
  return new Promise((resolve, reject) => {
    socket.once("error", (cause) => reject(listenError(port, cause)));
    socket.bind({ address: port.address, port: port.host_port, exclusive: true }, () => {
      // Later ones are of a datagram that could not be sent, and lost is all that is.
      socket.on("error", () => {});
      resolve({ hostPort: socket.address().port, close: forward(socket, openInside) });
    });
  });
}

/** Gives back how to end it. */
function forward(socket: Socket, openInside: (sink: DatagramSink) => Promise<DatagramPort>): () => void {
  /** By client, the one that was silent longest first. */
  const flows = new Map<string, Flow>();
  const byId = new Map<number, Flow>();
  let nextId = 0;
  let inside: DatagramPort | undefined;
  let early: [number, Buffer][] = [];
  let isOpening = false;
  let isClosed = false;
  let retryAt = 0;

  function onAnswer(id: number, bytes: Buffer): void {
    const flow = byId.get(id);
    if (!flow || isClosed || socket.getSendQueueSize() > MOST_QUEUED_BYTES) return;
    touch(flow);
    socket.send(bytes, flow.port, flow.address, () => {});
  }

  const sweep = setInterval(() => {
    for (const flow of flows.values()) {
      if (performance.now() - flow.lastAt < IDLE_MS) break;
      end(flow);
    }
    // A process inside for nobody is one too many.
    if (flows.size === 0) lose();
  }, SWEEP_MS);
  sweep.unref();
  socket.on("message", onMessage);

  function onMessage(bytes: Buffer, client: RemoteInfo): void {
    const { id } = flowOf(client);
    if (inside) {
      inside.send(id, bytes);
      return;
    }
    if (early.length < MOST_EARLY) early.push([id, bytes]);
    if (!isOpening && performance.now() >= retryAt) void open();
  }

  async function open(): Promise<void> {
    isOpening = true;
    let isLost = false;
    const onClosed = () => {
      isLost = true;
      lose();
    };
    try {
      const opened = await openInside({ datagram: onAnswer, closed: onClosed });
      if (isClosed || isLost) return opened.close();
      inside = opened;
      for (const [id, bytes] of early) opened.send(id, bytes);
    } catch {
      // It does not run, or its guest is busy: the datagrams are lost, and a later one asks again.
      retryAt = performance.now() + RETRY_MS;
    } finally {
      early = [];
      isOpening = false;
    }
  }

  function flowOf({ address, port }: RemoteInfo): Flow {
    const key = `${address} ${port}`;
    let flow = flows.get(key);
    if (!flow) {
      const [oldest] = flows.values();
      if (oldest && flows.size >= MOST_FLOWS) end(oldest);
      // Never one that was another client's: its late answers must not reach this one.
      flow = { id: nextId, address, port, lastAt: 0 };
      nextId = (nextId + 1) % 2 ** 32;
      byId.set(flow.id, flow);
    }
    touch(flow);
    return flow;
  }

  function touch(flow: Flow): void {
    const key = `${flow.address} ${flow.port}`;
    flow.lastAt = performance.now();
    flows.delete(key);
    flows.set(key, flow);
  }

  function end(flow: Flow): void {
    flows.delete(`${flow.address} ${flow.port}`);
    byId.delete(flow.id);
    inside?.endFlow(flow.id);
  }

  /** The guest knows no flow any more. */
  function lose(): void {
    inside?.close();
    inside = undefined;
  }

  return () => {
    isClosed = true;
    clearInterval(sweep);
    lose();
    socket.close();
  };
}
