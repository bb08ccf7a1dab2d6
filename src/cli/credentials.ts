import { forgetVariables, hostVariable } from "../app/config.ts";
import type { AnyCredentials, CredentialKind } from "../contracts/credentials.ts";
import type { CreateSandbox } from "../contracts/sandbox.ts";
import { readGivenValue, type ValueSource } from "./given-values.ts";
import { UsageError } from "./report.ts";

const FORM =
  "write it as aws=env, aws=cmd:COMMAND, gcp=cmd:COMMAND or gcp=env:VAR, or with file:PATH; gcp with ,project=ID and ,account=EMAIL";

/** Variables that AWS's own tools take and give. */
const awsVariables = {
  AccessKeyId: "AWS_ACCESS_KEY_ID",
  SecretAccessKey: "AWS_SECRET_ACCESS_KEY",
  SessionToken: "AWS_SESSION_TOKEN",
  Expiration: "AWS_CREDENTIAL_EXPIRATION",
} as const;

/** Credentials as they were written, with their values. */
export interface GivenCredentials {
  kind: CredentialKind;
  value: AnyCredentials;
  /** Of those that a command prints: how to have it print others. */
  renewal?: { command: string; parse: (printed: string) => AnyCredentials };
}

/** `aws=SOURCE` and `gcp=SOURCE[,project=ID][,account=EMAIL]`. An engine that is started later inherits no variable that is read here. */
export function parseCredentials(entries: readonly string[]): GivenCredentials[] {
  const variables: string[] = [];
  const given = entries.map((entry) => parseOne(entry, variables));
  forgetVariables(variables);
  return given;
}

function parseOne(entry: string, variables: string[]): GivenCredentials {
  const [, kind, rest = ""] = /^(aws|gcp)=(.+)$/s.exec(entry) ?? [];
  // What was written may be a secret: it is not repeated.
  if (kind === undefined) throw new UsageError("these are no credentials", FORM);
  if (kind === "aws" && rest === "env") {
    variables.push(...Object.values(awsVariables));
    return { kind, value: awsOfVariables() };
  }
  const [source = "", ...words] = kind === "gcp" ? rest.split(/,(?=(?:project|account)=)/) : [rest];
  const [, from, name = ""] = /^(env|file|cmd):(.+)$/s.exec(source) ?? [];
  if (from === undefined) throw new UsageError("these are no credentials", FORM);
  if (from === "env") variables.push(name);
  const more = Object.fromEntries(words.map((word) => word.split(/=(.*)/s).slice(0, 2)));
  const parse = (printed: string) =>
    kind === "aws" ? awsOfJson(printed) : { ...gcpOfText(printed), ...more };
  const value = parse(
    readGivenValue(`credentials ${kind}`, { kind: from as ValueSource["kind"], from: name }),
  );
  return {
    kind: kind as CredentialKind,
    value,
    ...(from === "cmd" ? { renewal: { command: name, parse } } : {}),
  };
}

function awsOfVariables(): AnyCredentials {
  const found = Object.entries(awsVariables).flatMap(([field, variable]) => {
    const value = hostVariable(variable);
    return value ? [[field, value]] : [];
  });
  const value = Object.fromEntries(found) as Record<string, string>;
  const missing = (["AccessKeyId", "SecretAccessKey"] as const).find((field) => value[field] === undefined);
  if (missing === undefined) return value as unknown as AnyCredentials;
  throw new UsageError(
    `credentials aws: there is no variable ${awsVariables[missing]}`,
    'eval "$(aws configure export-credentials --format env)"',
  );
}

/** What `credential_process` prints. The rest is the engine's to check. */
function awsOfJson(text: string): AnyCredentials {
  const value = parseObject(text);
  if (value) return value as AnyCredentials;
  throw new UsageError("credentials aws: this is no JSON", "such as aws configure export-credentials prints");
}

/** A token alone, or JSON with it: of an OAuth server, or of `gcloud config config-helper --format=json`. */
function gcpOfText(text: string): Extract<AnyCredentials, { access_token: string }> {
  if (!text.trimStart().startsWith("{")) return { access_token: text.trim() };
  const whole = parseObject(text);
  const inner = whole?.credential;
  const { access_token, token, expires_in, expires_at, token_expiry } = (
    typeof inner === "object" && inner !== null ? inner : (whole ?? {})
  ) as Record<string, unknown>;
  const found = access_token ?? token;
  if (typeof found !== "string") {
    throw new UsageError(
      "credentials gcp: there is no access_token",
      "such as gcloud auth print-access-token prints",
    );
  }
  const until = expires_at ?? token_expiry;
  return {
    access_token: found,
    ...(typeof expires_in === "number" ? { expires_in: Math.floor(expires_in) } : {}),
    ...(typeof until === "string" && typeof expires_in !== "number" ? { expires_at: until } : {}),
  };
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/** Of a request. */
export function credentialsRequest(given: readonly GivenCredentials[]): Pick<CreateSandbox, "credentials"> {
  const twice = given.find(({ kind }, i) => given.slice(0, i).some((other) => other.kind === kind));
  if (twice) throw new UsageError(`credentials ${twice.kind}: there can be one of each kind`);
  return given.length === 0
    ? {}
    : { credentials: Object.fromEntries(given.map(({ kind, value }) => [kind, value])) };
}
