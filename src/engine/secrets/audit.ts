import type { Caller } from "../../contracts/api.ts";
import type { Secret } from "../../contracts/secrets.ts";
import type { Core } from "../core.ts";

interface SecretsChange {
  action: "create" | "put" | "remove";
  /** Which one; of a create all. */
  name?: string;
  by: Caller | undefined;
  /** Those that the sandbox has from then on. */
  secrets: readonly Secret[];
}

/** Writes down who has given a sandbox which secrets. */
export function auditSecrets(
  core: Core,
  sandbox: string,
  { action, name, by, secrets }: SecretsChange,
): void {
  const entry = {
    type: "secrets",
    sandbox,
    action,
    ...(name === undefined ? {} : { name }),
    ...(by ? { by } : {}),
    secrets,
  } as const;
  // A create waits for the disk on its own account.
  core.audit.write(entry, { durable: action !== "create" });
}
