import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { WarrenError } from "../contracts/errors.ts";
import type { Logger } from "../lib/log.ts";
import { splice } from "../lib/splice.ts";
import { toWarrenError } from "./failure.ts";
import type { Entrance, Gate } from "./gate.ts";
import type { Dial } from "./preview/preview.ts";
import { portNumber } from "./query.ts";
import { PREFIX } from "./route.ts";
import { answerRaw } from "./sockets.ts";

const byPath = new RegExp(`^${PREFIX}/sandboxes/([^/?]+)/ports/([^/?]+)/connect(\\?.*)?$`);

/** The value of the Upgrade header. */
export const TUNNEL_PROTOCOL = "tcp";

/** True for who asks for a raw connection to a port. */
export function asksForTunnel({ url = "", headers }: IncomingMessage): boolean {
  return headers.upgrade?.toLowerCase() === TUNNEL_PROTOCOL && byPath.test(url);
}

/** Raw connections to ports inside, by an upgrade (RFC 9110, 7.8). */
export class Tunnels {
  readonly #open = new Set<Duplex>();
  readonly #options: { dial: Dial; gate: Gate; log: Logger };

  constructor(options: { dial: Dial; gate: Gate; log: Logger }) {
    this.#options = options;
  }

  async upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, entrance: Entrance): Promise<void> {
    const { dial, gate, log } = this.#options;
    socket.on("error", () => {});
    this.#open.add(socket);
    socket.once("close", () => this.#open.delete(socket));
    try {
      gate.check(request, entrance, false);
      const [, id = "", port = ""] = byPath.exec(request.url ?? "") ?? [];
      const inside = await dial(decoded(id), portNumber(port));
      if (socket.destroyed) return void inside.destroy();
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${TUNNEL_PROTOCOL}\r\n\r\n`,
      );
      if (head.length > 0) inside.write(head);
      splice(socket, inside);
    } catch (cause) {
      answerRaw(socket, toWarrenError(cause, log));
    }
  }

  close(): void {
    for (const socket of this.#open) socket.destroy();
  }
}

function decoded(id: string): string {
  try {
    return decodeURIComponent(id);
  } catch {
    throw new WarrenError("sandbox_not_found", "sandbox not found");
  }
}
