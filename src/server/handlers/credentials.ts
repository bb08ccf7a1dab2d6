import { CredentialKind, credentialSchemas } from "../../contracts/credentials.ts";
import { parseInput } from "../../lib/parse.ts";
import type { Handler } from "./handler.ts";

const kindOf = (parameter: (name: string) => string) => parseInput(CredentialKind, parameter("kind"));

export const credentialHandlers = {
  listCredentials: ({ api, id }) => api.credentials.list(id),
  async putCredentials({ api, id, parameter, json, by }) {
    const kind = kindOf(parameter);
    return await api.credentials.put(id, kind, await json(credentialSchemas[kind]), { by });
  },
  async removeCredentials({ api, id, parameter, by }) {
    return await api.credentials.remove(id, kindOf(parameter), { by });
  },
} satisfies Record<string, Handler>;
