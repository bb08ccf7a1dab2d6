import { randomBytes } from "node:crypto";
import type { RuntimeSpec } from "../../contracts/runtime.ts";
import type { NewSecret, Secret } from "../../contracts/secrets.ts";
import { type Core, guestOf } from "../core.ts";
import { type Authority, createAuthority, openAuthority } from "../egress/intercept/authority.ts";
import type { LiveSecret } from "../egress/intercept/bindings.ts";
import type { InterceptionTls } from "../egress/intercept/interceptor.ts";
import { createRoots } from "../egress/intercept/roots.ts";
import type { SandboxRecord } from "../record.ts";
import { installTrust, trustEnvironment } from "./trust.ts";
import type { Entry, Vault } from "./vault.ts";

/** An authority that ends sooner than this is not used any more: sandboxes that live get the new one. */
const AUTHORITY_LEFT_MS = 30 * 86_400_000;
const PLACEHOLDER = "warren-secret-";

/** The values of all sandboxes' secrets. They leave it only for the egress proxy. */
export interface SecretKeeper {
  readonly tls: InterceptionTls;
  /** Reads what is on disk, before any sandbox is served. */
  load(): Promise<void>;
  /** Takes values in, on disk when it resolves. Others of the sandbox are dropped unless they are in `kept`. */
  store(
    id: string,
    added: readonly Pick<NewSecret, "name" | "value">[],
    kept: readonly string[],
  ): Promise<void>;
  /** What the one has the other has too, with the same placeholders: a snapshot of its sandbox, or a sandbox of its snapshot. */
  copy(from: string, to: string): Promise<void>;
  live(record: Pick<SandboxRecord, "id" | "secrets">): LiveSecret[];
  /** Variables of all commands: the placeholders, and whom to trust. */
  environment(record: Pick<SandboxRecord, "id" | "secrets">): Record<string, string>;
  /** Has the sandbox that runs trust the engine, once for each of its runs. */
  prepare(record: SandboxRecord, spec: RuntimeSpec | undefined): Promise<void>;
  /** The run is over. */
  forget(id: string): void;
  remove(id: string): Promise<void>;
  /** Removes what belongs to no sandbox and no snapshot. */
  sweep(): Promise<void>;
}

export function createSecretKeeper(core: Core, vault: Vault): SecretKeeper {
  const values = new Map<string, ReadonlyMap<string, Entry>>();
  const prepared = new Map<string, Promise<void>>();
  let authority: Promise<Authority> | undefined;

  const readAuthority = async (): Promise<Authority> => {
    const now = core.clock.now;
    const split = (text: string) => {
      const [key = "", cert = ""] = text.split(/(?=-----BEGIN CERTIFICATE-----)/);
      return { key, cert };
    };
    const text = await vault.keep(
      "authority.pem",
      async (found) => {
        const opened = await openAuthority(split(found), now).catch(() => undefined);
        return opened !== undefined && opened.until - now() > AUTHORITY_LEFT_MS;
      },
      async () => {
        const { key, cert } = await createAuthority(now(), randomBytes(4).toString("hex"));
        return key + cert;
      },
    );
    core.onStep("secret.authority-made");
    return await openAuthority(split(text), now);
  };
  const theAuthority = async (): Promise<Authority> => {
    authority ??= readAuthority();
    authority.catch(() => {
      authority = undefined;
    });
    return await authority;
  };

  const live = ({ id, secrets = [] }: Pick<SandboxRecord, "id" | "secrets">): LiveSecret[] =>
    secrets.map((secret) => ({
      ...secret,
      ...(values.get(id)?.get(secret.name) ?? { placeholder: newPlaceholder() }),
    }));

  return {
    tls: { authority: theAuthority, roots: createRoots(core.config.trustFile) },
    async load() {
      await vault.tidy();
      for (const { id, secrets } of core.table.all()) {
        if (!secrets?.length) continue;
        const found = await vault.read(id);
        if (found) values.set(id, found);
        else
          core.log.error(
            { sandbox: id },
            "the values of a sandbox's secrets can't be read: they have to be set again",
          );
      }
    },
    async store(id, added, kept) {
      const before = values.get(id) ?? new Map<string, Entry>();
      const after = new Map<string, Entry>();
      for (const name of kept) {
        const entry = before.get(name);
        if (entry) after.set(name, entry);
      }
      for (const { name, value } of added) {
        // The same as before: commands that run have it.
        after.set(name, { value, placeholder: before.get(name)?.placeholder ?? newPlaceholder() });
      }
      await vault.write(id, after);
      values.set(id, after);
    },
    async copy(from, to) {
      const entries = values.get(from) ?? (await vault.read(from));
      if (!entries) {
        core.log.error({ from, to }, "the values of secrets can't be read: they have to be set again");
        return;
      }
      await vault.write(to, entries);
      // Nothing is sent in a snapshot's name.
      if (core.table.get(to)) values.set(to, entries);
    },
    live,
    environment(record) {
      const secrets = live(record);
      if (secrets.length === 0) return {};
      const placeholders = secrets.map(({ name, env = name, placeholder }) => [env, placeholder]);
      return { ...trustEnvironment(), ...Object.fromEntries(placeholders) };
    },
    prepare(record, spec) {
      if (!record.secrets?.length || !spec) return Promise.resolve();
      const done =
        prepared.get(record.id) ??
        theAuthority().then(({ cert }) => installTrust(guestOf(core, record), spec, cert));
      prepared.set(record.id, done);
      done.catch(() => prepared.delete(record.id));
      return done;
    },
    forget: (id) => void prepared.delete(id),
    async remove(id) {
      prepared.delete(id);
      values.delete(id);
      await vault.remove(id);
    },
    sweep: () =>
      vault.sweep(
        (id) =>
          core.table.get(id) !== undefined ||
          core.snapshots.get(id) !== undefined ||
          core.table.isSetAside(id),
      ),
  };
}

/** All that is told of a secret, without its value. */
export function withoutValue(secret: Secret & { value?: unknown }): Secret {
  const { value: _, ...told } = secret;
  return told;
}

/** To be known for what it is, and by nobody to be guessed for another's. */
function newPlaceholder(): string {
  return PLACEHOLDER + randomBytes(16).toString("hex");
}
