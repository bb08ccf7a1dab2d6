import { forgetVariables } from "../app/config.ts";
import type { CreateSandbox } from "../contracts/sandbox.ts";
import type { NewSecret } from "../contracts/secrets.ts";
import { readGivenValue, type ValueSource } from "./given-values.ts";
import { UsageError } from "./report.ts";

const FORM =
  "write it as NAME=env:VAR, NAME=file:PATH or NAME=cmd:COMMAND, then ,host=HOST and what else it takes";

/** A secret as it was written, with its value; `hosts` may be missing. */
export type GivenSecret = Omit<NewSecret, "hosts"> & Partial<Pick<NewSecret, "hosts">>;

/**
 * `NAME=SOURCE[,host=HOST]…[,bearer | ,header=NAME: TEMPLATE | ,basic=USER][,env=VARIABLE]`. The value itself is never in an
 * argument, which others can read. An engine that is started later does not inherit variables that are read here.
 */
export function parseSecrets(entries: readonly string[]): GivenSecret[] {
  const variables: string[] = [];
  const secrets = entries.map((entry) => parseSecret(entry, variables));
  forgetVariables(variables);
  return secrets;
}

function parseSecret(entry: string, variables: string[]): GivenSecret {
  const [, name, kind, rest] = /^(\w+)=(env|file|cmd):(.+)$/s.exec(entry) ?? [];
  // What was written may be a secret: it is not repeated.
  if (name === undefined || kind === undefined || rest === undefined)
    throw new UsageError("this is no secret", FORM);
  const [source = "", ...words] = rest.split(/,(?=(?:host|header|basic|env)=|bearer(?:,|$))/);
  if (kind === "env") variables.push(source);
  const secret: GivenSecret = {
    name,
    value: readGivenValue(`secret ${name}`, { kind: kind as ValueSource["kind"], from: source }),
  };
  const hosts: string[] = [];
  for (const word of words) {
    const [, key, value = ""] = /^(\w+)=?(.*)$/s.exec(word) ?? [];
    if (key === "host") hosts.push(value);
    else if (key === "env") secret.env = value;
    else if (key === "basic") secret.basic = { username: value };
    else if (key === "bearer") secret.header = {};
    else secret.header = parseHeader(name, value);
  }
  return { ...secret, ...(hosts.length > 0 ? { hosts } : {}) };
}

function parseHeader(name: string, text: string): NonNullable<NewSecret["header"]> {
  const colon = text.indexOf(":");
  const template = text.slice(colon + 1).trim();
  if (colon < 1 || !template.includes("{}")) {
    throw new UsageError(`secret ${name}: this is no header`, "write it as header=X-Api-Key: {}");
  }
  return { name: text.slice(0, colon).trim(), template };
}

/** Secrets of a request, and rules that let it reach their hosts: that is what they are for. */
export function secretsRequest(
  entries: readonly string[] | undefined,
): Pick<CreateSandbox, "secrets"> & { allow: string[] } {
  const secrets = parseSecrets(entries ?? []).map(({ hosts, ...secret }) => {
    if (hosts) return { ...secret, hosts };
    throw new UsageError(`secret ${secret.name}: it is bound to no host`, "add ,host=api.example.com");
  });
  return {
    ...(secrets.length > 0 ? { secrets } : {}),
    allow: secrets.flatMap(({ hosts }) => hosts.map(ruleFor)),
  };
}

function ruleFor(host: string): string {
  const isPlain = host.startsWith("http://");
  const name = isPlain ? host.slice("http://".length) : host;
  return /^(\[.*\]|[^:]*):\d+$/.test(name) ? name : `${name}:${isPlain ? 80 : 443}`;
}
