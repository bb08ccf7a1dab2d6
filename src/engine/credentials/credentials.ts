import type { CredentialsApi } from "../../contracts/api.ts";
import { CredentialKind, credentialSchemas } from "../../contracts/credentials.ts";
import { WarrenError } from "../../contracts/errors.ts";
import type { SandboxInfo } from "../../contracts/sandbox.ts";
import { parseInput } from "../../lib/parse.ts";
import { announce, type Core, notRunning } from "../core.ts";
import { isAlive, type SandboxRecord } from "../record.ts";
import type { ServiceManager } from "../services/manager.ts";
import { replaceGiven } from "../spec.ts";
import { admitCredentials } from "./admit.ts";
import { type CredentialStore, credentialInfo } from "./store.ts";

/** Credentials of sandboxes that there are. Their values come in here and are never told. */
export function createCredentials(
  core: Core,
  store: CredentialStore,
  services: ServiceManager,
): CredentialsApi {
  const inTurn = (wanted: string, step: (record: SandboxRecord) => Promise<SandboxInfo>) => {
    const { id } = core.table.resolve(wanted);
    return core.mutex.run(id, async () => {
      const record = core.table.require(id);
      if (record.state === "creating" || record.state === "removing") throw notRunning(record);
      return await step(record);
    });
  };

  /** Stores which ones a sandbox has from here on, and has its commands know. */
  const change = (
    record: SandboxRecord,
    now: Pick<SandboxRecord, "credentials">,
    before: Record<string, string>,
  ) => {
    const { id, spec, request } = record;
    const after = services.environment({ ...record, ...now });
    const env = spec && replaceGiven(spec.env, { before, after, requested: request.env });
    return core.table.update(id, { ...now, ...(spec && env ? { spec: { ...spec, env } } : {}) });
  };

  return {
    list: async (wanted) => [...(core.table.resolve(wanted).credentials ?? [])],
    async put(wanted, kindGiven, input, { by } = {}) {
      const kind = parseInput(CredentialKind, kindGiven);
      const given = parseInput(credentialSchemas[kind], input);
      return await inTurn(wanted, async (record) => {
        const { id, credentials = [] } = record;
        admitCredentials(record.spec?.network ?? "none");
        const info = credentialInfo(kind, given, core.clock.now());
        const all = [...credentials.filter((one) => one.kind !== kind), info];
        // First: where a program inside has the port, nothing is changed.
        const isReady = isAlive(record) && record.state !== "paused";
        if (isReady) await services.prepare({ ...record, credentials: all });
        const before = services.environment(record);
        await store.put(id, { [kind]: given });
        core.audit.write(
          { type: "credentials", sandbox: id, action: "put", kind, ...(by ? { by } : {}), credentials: all },
          { durable: true },
        );
        const updated = change(record, { credentials: all }, before);
        if (isAlive(updated)) services.follow(updated);
        return announce(core, "updated", updated);
      });
    },
    async remove(wanted, kindGiven, { by } = {}) {
      const kind = parseInput(CredentialKind, kindGiven);
      return await inTurn(wanted, async (record) => {
        const { id, credentials = [] } = record;
        const others = credentials.filter((one) => one.kind !== kind);
        if (others.length === credentials.length) {
          throw new WarrenError("credentials_not_found", `sandbox ${id} has no credentials of ${kind}`);
        }
        core.audit.write(
          {
            type: "credentials",
            sandbox: id,
            action: "remove",
            kind,
            ...(by ? { by } : {}),
            credentials: others,
          },
          { durable: true },
        );
        const before = services.environment(record);
        await store.drop(id, kind);
        return announce(core, "updated", change(record, { credentials: others }, before));
      });
    },
  };
}
