import { errorBody, WarrenError } from "../../contracts/errors.ts";
import { NetworkRules } from "../../contracts/network.ts";
import { CreateSandbox, ExtendRequest, UpdateSandbox } from "../../contracts/sandbox.ts";
import { ExplainQuery, ListSandboxesQuery, PruneQuery, pairsOf, StopQuery, WaitQuery } from "../query.ts";
import { type Handler, present, reply } from "./handler.ts";

/** den's status for what it does not do; the code is the one for programs. */
const NOT_IMPLEMENTED = 501;

const refusePorts: Handler = async () =>
  reply(
    NOT_IMPLEMENTED,
    errorBody(
      new WarrenError(
        "unsupported",
        "dynamic port forwarding is not supported: ports can't be added to or taken from a sandbox",
      ),
    ),
  );

export const sandboxHandlers = {
  async health({ api }) {
    const health = await api.health();
    return reply(health.status === "ok" ? 200 : 503, health);
  },
  version: ({ api }) => api.version(),
  async createSandbox({ api, json, signal, mayBind }) {
    const request = await json(CreateSandbox);
    if (!mayBind && request.storage?.binds?.length) {
      throw new WarrenError("forbidden", "storage.binds: this server mounts no directories of its machine", {
        hint: "clients of the engine's socket may; for those over TCP: warren serve --allow-binds",
      });
    }
    return await api.create(request, { signal });
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
  async setNetwork({ api, id, json }) {
    return await api.network.set(id, await json(NetworkRules));
  },
  explainNetwork({ api, id, query }) {
    const { host, port } = query(ExplainQuery);
    return api.network.explain(id, host, port);
  },
  networkDecisions: ({ api, id }) => api.network.decisions(id),
  prune: ({ api, query }) => api.prune(present(query(PruneQuery))),
  sandboxStats: ({ api, id }) => api.stats(id),
  systemStats: ({ api }) => api.systemStats(),
  async listPorts({ api, id }) {
    return (await api.get(id)).ports ?? [];
  },
  addPort: refusePorts,
  removePort: refusePorts,
} satisfies Record<string, Handler>;
