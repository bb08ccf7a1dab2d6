import { isDeepStrictEqual } from "node:util";
import { WarrenError } from "../../contracts/errors.ts";
import type { Runtime } from "../../contracts/runtime.ts";
import type { OnStep } from "../../contracts/steps.ts";
import { noSpace } from "../../lib/files.ts";
import type { Logger } from "../../lib/log.ts";
import { changeGuard } from "../common/change-guard.ts";
import { liveGuest } from "../common/guest-process.ts";
import { guardItems, SLIRP_NAME_SERVER } from "../common/open-network.ts";
import { watchGuard } from "../common/watch-guard.ts";
import type { Layout } from "./layout.ts";
import type { SandboxStore, StoredSandbox } from "./sandbox-store.ts";

export interface OpenRulesOptions {
  store: SandboxStore;
  layout: Layout;
  log: Logger;
  onStep: OnStep;
}

type OpenNetworkCalls = Pick<Runtime, "updateReach" | "reachItems" | "watchDenied">;

/** Rules of open network, which are stored and, of a sandbox that runs, changed from outside. */
export function createOpenRules(options: OpenRulesOptions): OpenNetworkCalls {
  const { store, layout, log, onStep } = options;
  const itemsOf = ({ spec }: StoredSandbox) => guardItems(spec, [SLIRP_NAME_SERVER]);
  return {
    async updateReach(id, reach) {
      const before = await store.read(id);
      if (before.spec.network !== "open") {
        throw new WarrenError("unsupported", `sandbox ${id} has no open network`);
      }
      const after = { ...before, spec: { ...before.spec, reach } };
      if (!isDeepStrictEqual(before.spec.reach, reach)) {
        await store.rewrite(after).catch((error: unknown) => {
          throw noSpace(error);
        });
      }
      const guest = await liveGuest(layout.sandbox(id).guestPid);
      if (!guest) return;
      try {
        await changeGuard(id, guest, itemsOf(after));
        onStep("oci.changed-rules");
      } catch (error) {
        // It has ended: what is stored is for its next start.
        if (!(await liveGuest(layout.sandbox(id).guestPid))) return;
        await store.rewrite(before);
        await changeGuard(id, guest, itemsOf(before)).catch((cause: unknown) => {
          log.warn({ err: cause, sandbox: id }, "the rules before a failed change could not be put back");
        });
        throw error;
      }
    },
    reachItems: async (id) => itemsOf(await store.read(id)),
    async watchDenied(id, onDenied) {
      const guest = await liveGuest(layout.sandbox(id).guestPid);
      if (!guest) throw new WarrenError("sandbox_wrong_state", `sandbox ${id} does not run`);
      return await watchGuard(id, guest, onDenied);
    },
  };
}
