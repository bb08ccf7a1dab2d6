import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { WarrenError } from "../../contracts/errors.ts";
import { type PortChoice, PortMapping, type PublishedPort } from "../../contracts/ports.ts";
import { parseInput } from "../../lib/parse.ts";
import { splice } from "../../lib/splice.ts";
import { announce, asWarrenError, type Core, inRunning, notRunning } from "../core.ts";
import { publishedPort } from "../info.ts";
import { isAlive, type SandboxRecord, type StoredPort } from "../record.ts";
import { admitPorts, describe, MOST_PORTS, refuseTaken, refuseWayOut, waysOut } from "./admit.ts";
import { listenTcp, type PortListener } from "./listener.ts";
import { listenUdp } from "./udp.ts";

/** How long a server inside may take to take a connection: it is on the same machine, and its kernel answers for it. */
const DIAL_TIMEOUT_MS = 5_000;
/** Free ports that are tried for `host_port: 0`: the kernel may pick one that a stopped sandbox will want again. */
const TRIES = 16;

/** The published ports of all sandboxes, and the connections into them. */
export interface PortManager {
  list(wanted: string): PublishedPort[];
  add(wanted: string, port: PortMapping): Promise<PublishedPort>;
  remove(wanted: string, choice: PortChoice): Promise<void>;
  /**
   * Opens all ports of a sandbox that is being created, or none and throws. The ports as they were chosen. `orFree`: one that
   * can't be had becomes one that is free.
   */
  claim(record: SandboxRecord, options?: { orFree?: boolean }): Promise<StoredPort[]>;
  /** Opens the ports of one that has come to run, in its turn. One that can't be had costs only itself: its record says why. */
  open(id: string): Promise<void>;
  /** Nobody listens for this sandbox any more, and its connections end. */
  close(id: string): void;
  /** A connection to a port inside; it counts as one of the sandbox's, and ends when it stops. Throws `port_unreachable`. */
  dial(wanted: string, port: number): Promise<Duplex>;
  closeAll(): void;
}

/** What one sandbox has open now. */
interface Doors {
  listeners: Map<string, PortListener>;
  /** Into the sandbox, whichever way they came. */
  connections: Set<Duplex>;
  /** Connections that are there or being made. */
  taken: number;
}

export function createPortManager(core: Core): PortManager {
  const { table, mutex, config, log } = core;
  const doors = new Map<string, Doors>();
  let taken = 0;

  core.events.subscribe(({ type, sandbox: { id, pid } }) => {
    // One that is in error for its silence alone still runs.
    if (type === "stopped" || type === "removed" || (type === "failed" && pid === undefined)) close(id);
  });

  return {
    list(wanted) {
      const record = table.resolve(wanted);
      return (record.ports ?? []).map((port) => publishedPort(record, port));
    },

    add(wanted, port) {
      const mapping = parseInput(PortMapping, port);
      const { id } = table.resolve(wanted);
      return mutex.run(id, async () => {
        const record = table.require(id);
        if (record.state === "creating" || record.state === "removing") throw notRunning(record);
        const [asked] = admitPorts([mapping], waysOut(record));
        const { ports = [] } = record;
        if (ports.length >= MOST_PORTS) {
          throw new WarrenError(
            "invalid_request",
            `sandbox ${id} has ${ports.length} published ports already`,
            {
              hint: `remove one: warren port rm ${id} ${ports[0]?.sandbox_port}`,
            },
          );
        }
        // Here and not before: while it waited for its turn, others had theirs.
        refuseTaken([asked as StoredPort], table.all());
        const added = isAlive(record) ? await listen(id, asked as StoredPort) : (asked as StoredPort);
        try {
          // A stopped one may have been given it meanwhile, which opens nothing.
          refuseTaken([added], table.all());
          const updated = table.update(id, { ports: [...ports, added] });
          announce(core, "updated", updated);
          return publishedPort(updated, added);
        } catch (error) {
          shut(id, added);
          throw error;
        }
      });
    },

    remove(wanted, { sandboxPort, protocol = "tcp" }) {
      const { id } = table.resolve(wanted);
      return mutex.run(id, async () => {
        const { ports = [] } = table.require(id);
        const isMeant = (port: StoredPort) => port.sandbox_port === sandboxPort && port.protocol === protocol;
        const gone = ports.filter(isMeant);
        if (gone.length === 0) {
          throw new WarrenError(
            "port_not_found",
            `${protocol} port ${sandboxPort} of the sandbox is not published`,
            {
              hint: `see which are: warren port ls ${id}`,
            },
          );
        }
        const updated = table.update(id, { ports: ports.filter((port) => !isMeant(port)) });
        for (const port of gone) shut(id, port);
        announce(core, "updated", updated);
      });
    },

    async claim({ id, ports = [] }, { orFree = false } = {}) {
      const claimOne = async (port: StoredPort) => {
        try {
          return await listen(id, port);
        } catch (error) {
          const isTaken = error instanceof WarrenError && error.code === "port_in_use";
          if (!isTaken || !orFree || port.host_port === 0) throw error;
          return await listen(id, { ...port, host_port: 0 });
        }
      };
      try {
        const chosen: StoredPort[] = [];
        for (const port of ports) chosen.push(await claimOne(port));
        return chosen;
      } catch (error) {
        close(id);
        throw error;
      }
    },

    async open(id) {
      const { ports } = table.require(id);
      if (!ports?.length) return;
      const opened: StoredPort[] = [];
      for (const { error: _, ...port } of ports) {
        try {
          opened.push(await listen(id, port));
        } catch (cause) {
          const error = asWarrenError(cause, `${describe(port)} can't be opened`);
          log.warn(
            { sandbox: id, code: error.code, port: describe(port) },
            `not published: ${error.message}`,
          );
          opened.push({ ...port, error: error.message });
        }
      }
      if (JSON.stringify(opened) !== JSON.stringify(ports)) table.update(id, { ports: opened });
    },

    close,
    dial: (wanted, port) => dial(table.resolve(wanted).id, port),
    closeAll() {
      for (const id of [...doors.keys()]) close(id);
    },
  };

  /** The port as it is open now. */
  async function listen(id: string, port: StoredPort): Promise<StoredPort> {
    const { listeners } = doorsOf(id);
    if (listeners.has(keyOf(port))) return port;
    for (let tries = 1; ; tries++) {
      const listener = await openListener(id, port);
      const opened = { ...port, host_port: listener.hostPort };
      try {
        if (port.host_port === 0) refuseTaken([opened], table.all());
      } catch (error) {
        listener.close();
        if (tries < TRIES) continue;
        throw error;
      }
      listeners.set(keyOf(opened), listener);
      return opened;
    }
  }

  function openListener(id: string, port: StoredPort): Promise<PortListener> {
    return port.protocol === "udp"
      ? listenUdp(port, (sink) => inRunning(core, id, (guest) => guest.datagrams(port.sandbox_port, sink)))
      : listenTcp(port, (client) => void serve(id, port, client));
  }

  async function serve(id: string, port: StoredPort, client: Socket): Promise<void> {
    try {
      const inside = await dial(id, port.sandbox_port);
      if (client.destroyed) inside.destroy();
      else splice(client, inside);
    } catch {
      // As if the port itself had refused: a plain end would look like a server with nothing to say.
      client.resetAndDestroy();
    }
  }

  async function dial(id: string, port: number): Promise<Duplex> {
    const own = doorsOf(id);
    const record = table.get(id);
    if (record) refuseWayOut(port, waysOut(record));
    if (own.taken >= config.maxPortConnectionsPerSandbox || taken >= config.maxPortConnections) {
      throw new WarrenError("rate_limited", "there are too many connections to ports of sandboxes", {
        hint: `a sandbox has at most ${config.maxPortConnectionsPerSandbox}; end some, or try again`,
      });
    }
    own.taken++;
    taken++;
    const release = () => {
      own.taken--;
      taken--;
    };
    try {
      // Loopback inside and nothing else: neither a client nor the sandbox chooses where a connection goes.
      const inside = await inRunning(core, id, (guest) => guest.dial(port, { timeoutMs: DIAL_TIMEOUT_MS }));
      inside.on("error", () => {}); // whoever reads it sees its end
      if (doors.get(id) !== own) inside.destroy(); // stopped meanwhile
      own.connections.add(inside);
      inside.once("close", () => {
        own.connections.delete(inside);
        release();
      });
      return inside;
    } catch (error) {
      release();
      throw error;
    }
  }

  function shut(id: string, port: StoredPort): void {
    const listeners = doors.get(id)?.listeners;
    listeners?.get(keyOf(port))?.close();
    listeners?.delete(keyOf(port));
  }

  function close(id: string): void {
    const own = doors.get(id);
    if (!own) return;
    doors.delete(id);
    for (const listener of own.listeners.values()) listener.close();
    for (const connection of own.connections) connection.destroy();
  }

  function doorsOf(id: string): Doors {
    let own = doors.get(id);
    if (!own) {
      own = { listeners: new Map(), connections: new Set(), taken: 0 };
      doors.set(id, own);
    }
    return own;
  }
}

function keyOf({ protocol, address, host_port }: StoredPort): string {
  return `${protocol} ${address} ${host_port}`;
}
