import type { Duplex } from "node:stream";
import { WarrenError } from "../../contracts/errors.ts";
import { createGuestClient } from "../../guest/client.ts";
import type { Carrier, MuxConnector } from "./mux.ts";
import { createMuxConnector } from "./mux.ts";

/**
 * Where the guest is reached: by its socket in a directory that the engine's machine shares with us, or through a program
 * that the engine executes beside it, where none crosses: into a virtual machine, or to another one.
 */
export type ReachKind = "socket" | "exec";

export interface ReachOptions {
  kind: ReachKind;
  connectSocket(id: string): Promise<Duplex>;
  openCarrier(id: string): Promise<Carrier>;
  /** To be remembered: from now on `kind` is `exec`. */
  onExec(): Promise<void>;
}

export interface Reach {
  /** For new sandboxes. */
  readonly kind: ReachKind;
  /** @throws WarrenError `guest_failed` */
  connect(id: string): Promise<Duplex>;
  /** Tries the other way to one whose socket does not answer, and takes it for all from now on when that works. */
  tryExec(id: string): Promise<boolean>;
  /** Lets go of the connections to one that ends. */
  forget(id: string): void;
  close(): void;
}

export function createReach(options: ReachOptions): Reach {
  let { kind } = options;
  const connectors = new Map<string, MuxConnector>();
  const connectExec = (id: string): Promise<Duplex> => {
    let connector = connectors.get(id);
    if (!connector) {
      connector = createMuxConnector(() => options.openCarrier(id));
      connectors.set(id, connector);
    }
    return connector.connect();
  };
  const forget = (id: string) => {
    connectors.get(id)?.close();
    connectors.delete(id);
  };
  return {
    get kind() {
      return kind;
    },
    async connect(id) {
      return await (kind === "exec" ? connectExec(id) : options.connectSocket(id));
    },
    async tryExec(id) {
      try {
        await createGuestClient(() => connectExec(id)).hello();
        kind = "exec";
        await options.onExec();
        return true;
      } catch (error) {
        forget(id);
        if (error instanceof WarrenError && error.code === "guest_failed") return false;
        throw error;
      }
    },
    forget,
    close() {
      for (const id of connectors.keys()) forget(id);
    },
  };
}
