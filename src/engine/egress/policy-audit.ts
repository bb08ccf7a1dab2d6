import type { Caller } from "../../contracts/api.ts";
import type { NetworkRules } from "../../contracts/network.ts";
import type { NetworkMode } from "../../contracts/runtime.ts";
import type { Core } from "../core.ts";

/** Writes down who has given a sandbox which rules. Without any network there is nothing to say. */
export function auditNetwork(
  core: Core,
  sandbox: string,
  action: "create" | "set" | "change",
  { mode, rules = {} }: { mode: NetworkMode; rules?: NetworkRules },
  by: Caller | undefined,
): void {
  if (mode === "none") return;
  const entry = { type: "policy", sandbox, action, ...(by ? { by } : {}), mode, rules } as const;
  // A create waits for the disk on its own account; its rules are in the store.
  core.audit.write(entry, { durable: action !== "create" });
}
