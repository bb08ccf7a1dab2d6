import { PortMapping } from "../../contracts/ports.ts";
import { PortQuery, portNumber } from "../query.ts";
import type { Handler } from "./handler.ts";

export const portHandlers = {
  listPorts: ({ api, id }) => api.ports.list(id),
  async addPort({ api, id, json, rights }) {
    const port = await json(PortMapping);
    rights.checkPublish(port.address);
    return await api.ports.add(id, port);
  },
  removePort({ api, id, parameter, query }) {
    const { protocol } = query(PortQuery);
    const sandboxPort = portNumber(parameter("port"));
    return api.ports.remove(id, { sandboxPort, ...(protocol === undefined ? {} : { protocol }) });
  },
} satisfies Record<string, Handler>;
