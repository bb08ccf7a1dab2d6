import type { z } from "zod";
import type { SecretsApi } from "../../contracts/api.ts";
import { WarrenError } from "../../contracts/errors.ts";
import type { SandboxInfo } from "../../contracts/sandbox.ts";
import { PutSecret, type Secret, SecretName } from "../../contracts/secrets.ts";
import { parseInput } from "../../lib/parse.ts";
import { announce, type Core, notRunning } from "../core.ts";
import { checkSecrets } from "../egress/intercept/bindings.ts";
import type { EgressManager } from "../egress/manager.ts";
import { isAlive, type SandboxRecord } from "../record.ts";
import { replaceGiven } from "../spec.ts";
import { refuseTakenVariables } from "./admit.ts";
import { auditSecrets } from "./audit.ts";
import type { SecretKeeper } from "./keeper.ts";

/** Secrets of sandboxes that there are. Their values come in here and are never told. */
export function createSecrets(core: Core, keeper: SecretKeeper, egress: EgressManager): SecretsApi {
  const filtered = (wanted: string): SandboxRecord => {
    const record = core.table.resolve(wanted);
    if (record.spec?.network === "filtered") return record;
    throw new WarrenError(
      "unsupported",
      `sandbox ${record.id} has the network ${record.spec?.network ?? "none"}, in which no secret can be added to requests`,
      { hint: "create it with --network filtered" },
    );
  };

  /** Stores which secrets a sandbox has from here on, and has its proxy and its commands know. */
  const change = async (record: SandboxRecord, secrets: Secret[]): Promise<SandboxInfo> => {
    const { id, spec } = record;
    const env = replaceGiven(spec?.env ?? {}, {
      before: keeper.environment(record),
      after: keeper.environment({ id, secrets }),
      requested: record.request.env,
    });
    const updated = core.table.update(id, { secrets, ...(spec ? { spec: { ...spec, env } } : {}) });
    egress.refreshSecrets(updated);
    if (isAlive(updated) && updated.state !== "paused") await keeper.prepare(updated, updated.spec);
    return announce(core, "updated", updated);
  };

  const inTurn = (wanted: string, step: (record: SandboxRecord) => Promise<SandboxInfo>) => {
    const { id } = filtered(wanted);
    return core.mutex.run(id, async () => {
      const record = core.table.require(id);
      if (record.state === "creating" || record.state === "removing") throw notRunning(record);
      return await step(record);
    });
  };

  return {
    list: async (wanted) => [...(filtered(wanted).secrets ?? [])],
    async put(wanted, name, input, { by } = {}) {
      const { value, ...parsed } = parseInput(PutSecret, input);
      parseInput(SecretName, name);
      return await inTurn(wanted, async (record) => {
        const { id, secrets = [] } = record;
        const made = merge(
          name,
          secrets.find((one) => one.name === name),
          parsed,
        );
        const others = secrets.filter((one) => one.name !== name);
        const all = [...others, made];
        checkSecrets(all);
        refuseTakenVariables(all, record.request.env);
        await keeper.store(
          id,
          [{ name, value }],
          others.map((one) => one.name),
        );
        auditSecrets(core, id, { action: "put", name, by, secrets: all });
        return await change(record, all);
      });
    },
    async remove(wanted, name, { by } = {}) {
      return await inTurn(wanted, async (record) => {
        const { id, secrets = [] } = record;
        const others = secrets.filter((one) => one.name !== name);
        if (others.length === secrets.length) {
          throw new WarrenError("secret_not_found", `sandbox ${id} has no secret ${JSON.stringify(name)}`);
        }
        auditSecrets(core, id, { action: "remove", name, by, secrets: others });
        const info = await change(record, others);
        await keeper.store(
          id,
          [],
          others.map((one) => one.name),
        );
        return info;
      });
    },
  };
}

/** What isn't said stays; header and basic take each other's place. */
function merge(
  name: string,
  before: Secret | undefined,
  { hosts, header, basic, env }: Omit<z.output<typeof PutSecret>, "value">,
): Secret {
  const places = hosts ?? before?.hosts;
  if (!places) {
    throw new WarrenError("invalid_request", `hosts: a new secret is bound to hosts`, {
      hint: `such as "hosts": ["api.example.com"]`,
    });
  }
  const way = header || basic ? { header, basic } : { header: before?.header, basic: before?.basic };
  const variable = env ?? before?.env;
  return {
    name,
    hosts: places,
    ...(way.header ? { header: way.header } : {}),
    ...(way.basic ? { basic: way.basic } : {}),
    ...(variable === undefined ? {} : { env: variable }),
  };
}
