import { WarrenError } from "../../contracts/errors.ts";
import type { Runtime, RuntimeSpec } from "../../contracts/runtime.ts";
import type { OnStep } from "../../contracts/steps.ts";
import { noSpace } from "../../lib/files.ts";
import type { Logger } from "../../lib/log.ts";
import { changeGuard } from "../common/change-guard.ts";
import type { ProcessId } from "../common/guest-process.ts";
import { guardItems } from "../common/open-network.ts";
import { watchGuard } from "../common/watch-guard.ts";
import { type Containers, lives } from "./containers.ts";
import { guestProcess } from "./local-groups.ts";
import type { OpenNetwork, SandboxDirs } from "./sandbox-dirs.ts";

/**
 * Rules of open network. A container's command is what it was created with, so that they are in a file that is mounted
 * read-only; its guest reads that when it starts, and while it runs they are changed from outside.
 */
export interface OpenRules extends Pick<Runtime, "updateReach" | "reachItems" | "watchDenied"> {
  /** Of a sandbox whose container is about to be made. Gives the file, if it has open network. */
  prepare(spec: RuntimeSpec, nameServers: readonly string[]): Promise<string | undefined>;
  /** Before a start: this machine may be in other networks than at the last one. */
  refresh(id: string): Promise<void>;
}

export interface OpenRulesOptions {
  dirs: SandboxDirs;
  containers: Pick<Containers, "look">;
  log: Logger;
  onStep: OnStep;
}

export function createOpenRules({ dirs, containers, log, onStep }: OpenRulesOptions): OpenRules {
  const itemsOf = (id: string, { reach, nameServers }: OpenNetwork) => guardItems({ id, reach }, nameServers);
  const write = async (id: string, network: OpenNetwork) => {
    try {
      await dirs.changeNetwork(id, network);
      await dirs.writeGuard(id, itemsOf(id, network));
    } catch (error) {
      throw noSpace(error);
    }
  };
  const require = async (id: string): Promise<OpenNetwork> => {
    const network = await dirs.readNetwork(id);
    if (network) return network;
    const spec = await dirs.readSpec(id);
    if (spec.network !== "open") throw new WarrenError("unsupported", `sandbox ${id} has no open network`);
    throw new WarrenError(
      "unsupported",
      `sandbox ${id} was created by an earlier Warren, or where none of its files can be mounted, and its rules are fixed`,
      { hint: "create another one with the rules that it shall have" },
    );
  };
  /** Undefined when it does not run. */
  const guestOf = async (id: string): Promise<ProcessId | undefined> => {
    const container = await containers.look(id);
    if (!container || !lives(container)) return undefined;
    const guest = await guestProcess(id, container);
    if (guest) return guest;
    const now = await containers.look(id);
    if (!now || !lives(now)) return undefined;
    throw new WarrenError("unsupported", `the processes of sandbox ${id} can't be seen from here`);
  };
  const apply = async (id: string, network: OpenNetwork): Promise<void> => {
    const guest = await guestOf(id);
    if (guest) await changeGuard(id, guest, itemsOf(id, network));
  };

  return {
    async prepare(spec, nameServers) {
      if (spec.network !== "open" || !spec.reach) return undefined;
      await write(spec.id, { reach: spec.reach, nameServers: [...nameServers] });
      return dirs.guardFile(spec.id);
    },
    async refresh(id) {
      const network = await dirs.readNetwork(id);
      if (network) await dirs.writeGuard(id, itemsOf(id, network));
    },
    async updateReach(id, reach) {
      const before = await require(id);
      const after = { ...before, reach };
      await write(id, after);
      onStep("container.rewrote-spec");
      try {
        await apply(id, after);
        onStep("container.changed");
      } catch (error) {
        await write(id, before);
        await apply(id, before).catch((cause: unknown) => {
          log.warn({ err: cause, sandbox: id }, "the rules before a failed change could not be put back");
        });
        throw error;
      }
    },
    async reachItems(id) {
      return itemsOf(id, await require(id));
    },
    async watchDenied(id, onDenied) {
      const guest = await guestOf(id);
      if (!guest) throw new WarrenError("sandbox_wrong_state", `sandbox ${id} does not run`);
      return await watchGuard(id, guest, onDenied);
    },
  };
}
