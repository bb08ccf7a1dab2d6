import { WarrenError } from "../../contracts/errors.ts";
import { NetworkChange, NetworkRules } from "../../contracts/network.ts";
import { CreateSandbox, ExtendRequest, UpdateSandbox } from "../../contracts/sandbox.ts";
import { ExplainQuery, ListSandboxesQuery, PruneQuery, pairsOf, StopQuery, WaitQuery } from "../query.ts";
import { type Handler, present, type Rights, reply } from "./handler.ts";

export const sandboxHandlers = {
  async health({ api }) {
    const health = await api.health();
    return reply(health.status === "ok" ? 200 : 503, health);
  },
  version: ({ api }) => api.version(),
  async createSandbox({ api, json, signal, rights, by }) {
    const request = await json(CreateSandbox);
    checkRights(rights, {
      binds: (request.storage?.binds?.length ?? 0) > 0,
      hostNetwork: request.network_mode === "host",
      sshAgent: request.ssh_agent !== undefined,
      addresses: request.ports?.map(({ address }) => address) ?? [],
    });
    return await api.create(request, { signal, by });
  },
  async listSandboxes({ api, incoming, query }) {
    query(ListSandboxesQuery);
    const labels = pairsOf(incoming.url ?? "", "label");
    return await api.list(labels ? { labels } : undefined);
  },
  getSandbox: ({ api, id }) => api.get(id),
  removeSandbox: ({ api, id }) => api.remove(id),
  startSandbox: ({ api, id }) => api.start(id),
  async stopSandbox({ api, id, query }) {
    const { timeout } = query(StopQuery);
    return await api.stop(id, timeout === undefined ? {} : { timeoutMs: timeout * 1000 });
  },
  async waitSandbox({ api, id, query, signal }) {
    const { timeout } = query(WaitQuery);
    return await api.wait(id, { signal, ...(timeout === undefined ? {} : { timeoutS: timeout }) });
  },
  pauseSandbox: ({ api, id }) => api.pause(id),
  resumeSandbox: ({ api, id }) => api.resume(id),
  async updateSandbox({ api, id, json }) {
    return await api.update(id, await json(UpdateSandbox));
  },
  async extendSandbox({ api, id, json }) {
    const { timeout } = await json(ExtendRequest);
    return await api.extend(id, timeout);
  },
  getNetwork: ({ api, id }) => api.network.get(id),
  async setNetwork({ api, id, json, by }) {
    return await api.network.set(id, await json(NetworkRules), { by });
  },
  async changeNetwork({ api, id, json, by }) {
    return await api.network.change(id, await json(NetworkChange), { by });
  },
  explainNetwork({ api, id, query }) {
    const { host, port } = query(ExplainQuery);
    return api.network.explain(id, host, port);
  },
  networkDecisions: ({ api, id }) => api.network.decisions(id),
  prune: ({ api, query }) => api.prune(present(query(PruneQuery))),
  sandboxStats: ({ api, id }) => api.stats(id),
  systemStats: ({ api }) => api.systemStats(),
} satisfies Record<string, Handler>;

/** What a sandbox has of the engine's machine. */
interface OfMachine {
  binds: boolean;
  hostNetwork: boolean;
  sshAgent: boolean;
  /** That its ports are published on. */
  addresses: readonly string[];
}

/** @throws WarrenError `forbidden` when it is more than this client may have */
export function checkRights(rights: Rights, { binds, hostNetwork, sshAgent, addresses }: OfMachine): void {
  if (!rights.mayBind && binds) {
    throw new WarrenError("forbidden", "storage.binds: this server mounts no directories of its machine", {
      hint: "clients of the engine's socket may; for those over TCP: warren serve --allow-binds",
    });
  }
  if (!rights.mayHaveHostNetwork && hostNetwork) {
    throw new WarrenError("forbidden", "network_mode: this server gives nobody its machine's network", {
      hint: "clients of the engine's socket may have it; for those over TCP: warren serve --allow-host-network",
    });
  }
  if (!rights.mayUseSshAgent && sshAgent) {
    throw new WarrenError(
      "forbidden",
      "ssh_agent: over TCP nobody uses an SSH agent of the server's machine",
      {
        hint: "clients of the engine's socket may",
      },
    );
  }
  for (const address of addresses) rights.checkPublish(address);
}
