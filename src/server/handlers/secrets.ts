import { PutSecret } from "../../contracts/secrets.ts";
import type { Handler } from "./handler.ts";

export const secretHandlers = {
  listSecrets: ({ api, id }) => api.secrets.list(id),
  async putSecret({ api, id, parameter, json }) {
    return await api.secrets.put(id, parameter("secret"), await json(PutSecret));
  },
  removeSecret: ({ api, id, parameter }) => api.secrets.remove(id, parameter("secret")),
} satisfies Record<string, Handler>;
