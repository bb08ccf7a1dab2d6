import { WarrenError } from "../../../contracts/errors.ts";
import { noSpace } from "../../../lib/files.ts";
import type { Logger } from "../../../lib/log.ts";
import type { ContainerState } from "../answers.ts";
import { engineFailure } from "../api-client.ts";
import { type Containers, isPaused } from "../containers.ts";
import type { SandboxDirs } from "../sandbox-dirs.ts";

/**
 * Sandboxes that an engine holds still for a snapshot and that go on afterwards, whatever happens to the engine or to us. That
 * one is held is noted on disk first: what is found frozen later is not for its user's sake.
 */
export interface Holds {
  /** Before the engine freezes it. */
  begin(id: string): Promise<void>;
  /** Sees that it goes on. Throws `runtime_failed`, `runtime_unavailable`; it is seen to later then. */
  end(id: string): Promise<void>;
  /** The container as it is once nothing holds it that is over. */
  release(id: string, container: ContainerState | undefined): Promise<ContainerState | undefined>;
  /** Whoever paused or resumed it has decided. */
  forget(id: string): Promise<void>;
}

export interface HoldsOptions {
  dirs: Pick<SandboxDirs, "noteHeld" | "forgetHeld" | "listHeld">;
  containers: Pick<Containers, "look" | "act">;
  log: Logger;
}

export async function openHolds({ dirs, containers, log }: HoldsOptions): Promise<Holds> {
  const noted = new Set(await dirs.listHeld());
  /** Those whose snapshot is under way. */
  const busy = new Set<string>();

  const forget = async (id: string): Promise<void> => {
    if (!noted.has(id)) return;
    await dirs.forgetHeld(id);
    noted.delete(id);
  };

  const thaw = async (id: string, container: ContainerState | undefined) => {
    let now = container;
    if (now && isPaused(now)) {
      await containers.act(id, "/unpause").catch((error: unknown) => {
        throw engineFailure(error, `sandbox ${id} was held still for a snapshot and can't go on`);
      });
      now = await containers.look(id);
      if (now && isPaused(now)) {
        throw new WarrenError(
          "runtime_failed",
          `sandbox ${id} was held still for a snapshot and does not go on`,
          {
            hint: `try warren resume ${id}`,
          },
        );
      }
    }
    await forget(id);
    return now;
  };

  return {
    async begin(id) {
      await dirs.noteHeld(id).catch((error: unknown) => {
        throw noSpace(error);
      });
      noted.add(id);
      busy.add(id);
    },
    async end(id) {
      busy.delete(id);
      await thaw(id, await containers.look(id));
    },
    async release(id, container) {
      if (!noted.has(id) || busy.has(id)) return container;
      log.warn(
        { sandbox: id },
        "a sandbox goes on that was held still for a snapshot when that was cut short",
      );
      return await thaw(id, container);
    },
    forget,
  };
}
