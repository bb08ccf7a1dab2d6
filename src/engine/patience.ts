import type { ServerResponse } from "node:http";
import type { Duplex } from "node:stream";

/**
 * Ends clients that take too long until the head of their next request is here. Node's own timers run for servers that listen,
 * which this one does not.
 */
export function createPatience(keepAliveMs: number) {
  const waits = new WeakMap<Duplex, { timer: NodeJS.Timeout | undefined; answers: number }>();
  const begin = (client: Duplex, ms: number) => {
    const wait = waits.get(client) ?? { timer: undefined, answers: 0 };
    clearTimeout(wait.timer);
    wait.timer = setTimeout(() => client.destroy(), ms);
    if (!waits.has(client)) client.once("close", () => clearTimeout(wait.timer));
    waits.set(client, wait);
  };
  return {
    begin,
    onRequest(client: Duplex, response: ServerResponse) {
      const wait = waits.get(client);
      if (!wait) return;
      clearTimeout(wait.timer);
      wait.answers++;
      response.once("close", () => {
        wait.answers--;
        if (wait.answers === 0 && !client.destroyed && waits.has(client)) begin(client, keepAliveMs);
      });
    },
    /** It speaks another protocol from here on. */
    forget(client: Duplex) {
      clearTimeout(waits.get(client)?.timer);
      waits.delete(client);
    },
  };
}
