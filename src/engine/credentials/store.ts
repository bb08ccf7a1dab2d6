import { randomBytes } from "node:crypto";
import { credentialKinds } from "../../contracts/constants.ts";
import {
  type AnyCredentials,
  type AwsCredentials,
  type CredentialInfo,
  type CredentialKind,
  type Credentials,
  credentialSchemas,
  type GcpCredentials,
} from "../../contracts/credentials.ts";
import { jsonOrUndefined } from "../../lib/parse.ts";
import type { Core } from "../core.ts";
import type { Entry, Vault } from "../secrets/vault.ts";

/** With the moment of its end, in whatever way that was told. */
type Gcp = Omit<GcpCredentials, "expires_in">;
interface Values {
  aws: AwsCredentials;
  gcp: Gcp;
}

/** The values of all sandboxes' credentials. They leave it only for the endpoint inside of their sandbox. */
export interface CredentialStore {
  /** Reads what is on disk, before any sandbox is served. */
  load(): Promise<void>;
  /** In the place of those of the kind; on disk when it resolves. */
  put(id: string, given: Credentials): Promise<void>;
  /** As of secrets. */
  copy(from: string, to: string): Promise<void>;
  /** Undefined when there are none, or they were lost. */
  get<K extends CredentialKind>(id: string, kind: K): Values[K] | undefined;
  /** What a program inside shows for AWS's credentials: it stays the same when they are replaced. */
  token(id: string): string | undefined;
  drop(id: string, kind: CredentialKind): Promise<void>;
  remove(id: string): Promise<void>;
}

export function createCredentialStore(core: Core, vault: Vault): CredentialStore {
  const all = new Map<string, ReadonlyMap<string, Entry>>();
  const nameOf = (id: string) => `${id}.credentials`;

  const write = async (id: string, entries: ReadonlyMap<string, Entry>) => {
    await vault.write(nameOf(id), entries);
    all.set(id, entries);
  };

  return {
    async load() {
      for (const { id, credentials } of core.table.all()) {
        if (!credentials?.length) continue;
        const found = await vault.read(nameOf(id));
        if (found) all.set(id, found);
        else
          core.log.error({ sandbox: id }, "a sandbox's credentials can't be read: they have to be set again");
      }
    },
    async put(id, given) {
      const entries = new Map(all.get(id));
      for (const [kind, value] of Object.entries(given)) {
        if (!value) continue;
        const token = entries.get(kind)?.placeholder ?? randomBytes(24).toString("base64url");
        entries.set(kind, { value: JSON.stringify(untilWhen(value, core.clock.now())), placeholder: token });
      }
      await write(id, entries);
    },
    async copy(from, to) {
      const entries = all.get(from) ?? (await vault.read(nameOf(from)));
      if (!entries) {
        core.log.error({ from, to }, "credentials can't be read: they have to be set again");
        return;
      }
      await vault.write(nameOf(to), entries);
      if (core.table.get(to)) all.set(to, entries);
    },
    get<K extends CredentialKind>(id: string, kind: K) {
      const text = all.get(id)?.get(kind)?.value;
      const parsed = credentialSchemas[kind].safeParse(
        text === undefined ? undefined : jsonOrUndefined(text),
      );
      return parsed.success ? (parsed.data as Values[K]) : undefined;
    },
    token: (id) => all.get(id)?.get("aws")?.placeholder,
    async drop(id, kind) {
      const entries = new Map(all.get(id));
      if (entries.delete(kind)) await write(id, entries);
    },
    async remove(id) {
      all.delete(id);
      await vault.remove(nameOf(id));
    },
  };
}

function untilWhen(given: AnyCredentials, now: number): AwsCredentials | Gcp {
  if (!("expires_in" in given) || given.expires_in === undefined) return given;
  const { expires_in, ...rest } = given;
  return { ...rest, expires_at: new Date(now + expires_in * 1000).toISOString() };
}

/** What may be told of them. */
export function credentialInfo(kind: CredentialKind, given: AnyCredentials, now: number): CredentialInfo {
  const value = untilWhen(given, now);
  if ("AccessKeyId" in value) {
    return { kind, ...(value.Expiration === undefined ? {} : { expires_at: value.Expiration }) };
  }
  const { expires_at, project, account } = value;
  return {
    kind,
    ...(expires_at === undefined ? {} : { expires_at }),
    ...(project === undefined ? {} : { project }),
    ...(account === undefined ? {} : { account }),
  };
}

export function credentialInfos(given: Credentials, now: number): CredentialInfo[] {
  return credentialKinds.flatMap((kind) => {
    const one = given[kind];
    return one ? [credentialInfo(kind, one, now)] : [];
  });
}
