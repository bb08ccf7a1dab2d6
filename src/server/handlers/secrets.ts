import { PutSecret } from "../../contracts/secrets.ts";
import type { Handler } from "./handler.ts";

export const secretHandlers = {
  listSecrets: ({ api, id }) => api.secrets.list(id),
  async putSecret({ api, id, parameter, json, by }) {
    return await api.secrets.put(id, parameter("secret"), await json(PutSecret), { by });
  },
  removeSecret: ({ api, id, parameter, by }) => api.secrets.remove(id, parameter("secret"), { by }),
} satisfies Record<string, Handler>;
