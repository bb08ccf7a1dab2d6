import { CreateSnapshot, RestoreSnapshot } from "../../contracts/snapshots.ts";
import { type Handler, present } from "./handler.ts";
import { checkRights } from "./sandboxes.ts";

export const snapshotHandlers = {
  async createSnapshot({ api, id, jsonOrNothing, signal, by }) {
    return await api.snapshots.create(id, present(await jsonOrNothing(CreateSnapshot)), { signal, by });
  },
  listSandboxSnapshots: ({ api, id }) => api.snapshots.list({ sandbox_id: id }),
  listSnapshots: ({ api }) => api.snapshots.list(),
  getSnapshot: ({ api, id }) => api.snapshots.get(id),
  async restoreSnapshot({ api, id, jsonOrNothing, signal, by, rights }) {
    const request = present<RestoreSnapshot>(await jsonOrNothing(RestoreSnapshot));
    // What a sandbox has of this machine, a client gets from a snapshot only if it gets it at a creation.
    const snapshot = await api.snapshots.get(id);
    checkRights(rights, {
      binds: snapshot.mounts?.some(({ type }) => type === "bind") ?? false,
      hostNetwork: snapshot.network_mode === "host",
      sshAgent: snapshot.ssh_agent !== undefined,
      addresses: snapshot.ports?.map(({ address }) => address) ?? [],
    });
    return await api.snapshots.restore(snapshot.id, request, { signal, by });
  },
  removeSnapshot: ({ api, id, by }) => api.snapshots.remove(id, { by }),
} satisfies Record<string, Handler>;
