import { WarrenError } from "../../contracts/errors.ts";
import { PortMapping, PreviewRequest } from "../../contracts/ports.ts";
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
  async previewPort({ id, parameter, json, linkTo }) {
    const { expires_in: seconds } = await json(PreviewRequest);
    return await linkTo({ id, port: portNumber(parameter("port")), seconds });
  },
  // What asks for the upgrade does not come here.
  async connectPort() {
    throw new WarrenError("invalid_request", "this route is for an upgrade to a raw connection", {
      hint: "send Connection: Upgrade and Upgrade: tcp, over HTTP/1.1",
    });
  },
} satisfies Record<string, Handler>;
