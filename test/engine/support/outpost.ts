import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { WarrenError } from "../../../src/contracts/errors.ts";
import type { Runtime } from "../../../src/contracts/runtime.ts";
import { createDeferred } from "../../../src/lib/deferred.ts";
import { fakeRuntime } from "./engine.ts";

/** A runtime whose daemon can be away. Its sandboxes are real, and live on without it, as containers do. */
export interface Outpost {
  name: string;
  /** For the engine. Takes a while, as daemons do. */
  open(): Promise<Runtime>;
  /** How often it was opened, or could not be. */
  readonly opened: number;
  /** Its daemon dies, and with it all connections through it. */
  goAway(): void;
  comeBack(): void;
  /** The daemon takes connections, and answers none until it comes back. */
  hang(): void;
  /** What the daemon itself has, whatever the engine can reach. */
  inside(): Promise<Runtime>;
  /** Removes all that is in it. */
  clear(): Promise<void>;
}

const away = () =>
  new WarrenError("runtime_unavailable", "the daemon is not running", { hint: "systemctl start outpost" });

export function outpost(stateDir: string, name = "outpost"): Outpost {
  const base = join(stateDir, name);
  const connections = new Set<Duplex>();
  let state: "here" | "away" | "hanging" = "here";
  let back = createDeferred<void>();
  let opened = 0;

  const inside = async () => {
    mkdirSync(base, { recursive: true, mode: 0o700 });
    return await fakeRuntime(base);
  };
  const reach = async () => {
    if (state === "hanging") await back.promise;
    if (state === "away") throw away();
  };
  const through =
    <A extends unknown[], R>(call: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      await reach();
      return await call(...args);
    };

  return {
    name,
    get opened() {
      return opened;
    },
    async open() {
      opened++;
      await new Promise((resolve) => setTimeout(resolve, 5));
      await reach();
      const runtime = await inside();
      return {
        ...runtime,
        name,
        create: through(runtime.create),
        start: through(runtime.start),
        stop: through(runtime.stop),
        remove: through(runtime.remove),
        inspect: through(runtime.inspect),
        list: through(runtime.list),
        connect: through(async (id) => {
          const connection = await runtime.connect(id);
          connections.add(connection.once("close", () => connections.delete(connection)));
          return connection;
        }),
      };
    },
    goAway() {
      state = "away";
      for (const connection of connections) connection.destroy();
    },
    comeBack() {
      state = "here";
      back.resolve();
    },
    hang() {
      state = "hanging";
      back = createDeferred<void>();
    },
    inside,
    async clear() {
      if (!existsSync(base)) return;
      const runtime = await inside();
      await Promise.all((await runtime.list()).map(({ id }) => runtime.remove(id)));
    },
  };
}
