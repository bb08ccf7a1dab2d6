import { WarrenError } from "../../../contracts/errors.ts";
import type { Secret } from "../../../contracts/secrets.ts";
import { type Host, parseHost } from "../../../lib/host-name.ts";
import {
  type Admitted,
  type Origin,
  type Redaction,
  type Refusal,
  type RequestGuard,
  refuse,
} from "../guard.ts";
import { matchesHost, matchesPort, parseRule, type Rule } from "../rules.ts";
import { createRedaction } from "./redact.ts";

/** A secret of one sandbox, with what is never told. */
export interface LiveSecret extends Secret {
  /** What stands for it inside. */
  placeholder: string;
  /** Absent when it was lost: what would need it is refused. */
  value?: string;
}

/** Which requests of a sandbox get which secrets. */
export interface Bindings extends RequestGuard {
  /** Whether TLS to this host ends at the engine. */
  intercepts(host: Host, port: number): boolean;
}

const PORTS = { https: 443, http: 80 } as const;
const PLAIN = "http://";

/** What routes and frames a request, and what a binding must not set. RFC 9110, 7.6.1 and RFC 9112. */
const reserved = new Set([
  ...[
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
  ],
  ...["content-length", "expect", "accept-encoding"],
]);

/** One place that a secret may go to. */
interface Target {
  rule: Rule;
  isPlain: boolean;
  text: string;
}

/**
 * Where a secret is bound to.
 * @throws WarrenError `invalid_request`
 */
function parseTarget(text: string): Target {
  const isPlain = text.startsWith(PLAIN);
  const rule = parseRule(isPlain ? text.slice(PLAIN.length) : text);
  const { target, ports } = rule;
  const why =
    rule.internal || target.kind === "any"
      ? "a secret is bound to hosts, not to everything"
      : target.kind === "network" && rule.text.includes("/")
        ? "a secret is bound to one address, not to a network"
        : target.kind === "below" && !target.name.includes(".")
          ? "this is half the internet"
          : ports.from !== ports.to && (ports.from !== 1 || ports.to !== 65_535)
            ? "one port, or none for the usual one"
            : undefined;
  if (why !== undefined) {
    throw new WarrenError("invalid_request", `${JSON.stringify(text)} is no host of a secret: ${why}`, {
      hint: "such as api.example.com, *.example.com:8443, or http://localhost:8080 for one without TLS",
    });
  }
  const port = ports.from === ports.to ? ports.from : isPlain ? PORTS.http : PORTS.https;
  return { rule: { ...rule, ports: { from: port, to: port } }, isPlain, text };
}

/**
 * Checks secrets against each other.
 * @throws WarrenError `invalid_request`
 */
export function checkSecrets(secrets: readonly Secret[]): void {
  const seen = new Set<string>();
  const headers: { name: string; secret: string; target: Target }[] = [];
  for (const secret of secrets) {
    const { name, env = name, header, basic } = secret;
    for (const word of new Set([`secret ${name}`, `variable ${env}`])) {
      if (seen.has(word)) throw new WarrenError("invalid_request", `there are two secrets with the ${word}`);
      seen.add(word);
    }
    if (header && basic) {
      throw new WarrenError("invalid_request", `secret ${name}: header and basic exclude each other`);
    }
    const field = headerOf(secret)?.name;
    if (field !== undefined && isReserved(field)) {
      throw new WarrenError("invalid_request", `secret ${name}: the header ${field} is not for a secret`);
    }
    for (const target of secret.hosts.map(parseTarget)) {
      const other = field && headers.find((one) => one.name === field && overlap(one.target, target));
      if (other) {
        const message = `${other.secret} and ${name} both set the header ${field} of ${target.text}`;
        throw new WarrenError("invalid_request", message);
      }
    }
    if (field)
      headers.push(...secret.hosts.map((host) => ({ name: field, secret: name, target: parseTarget(host) })));
  }
}

function overlap(one: Target, other: Target): boolean {
  if (one.isPlain !== other.isPlain || one.rule.ports.from !== other.rule.ports.from) return false;
  const [a, b] = [one.rule.target, other.rule.target];
  if (a.kind === "network" || b.kind === "network") return one.rule.text === other.rule.text;
  if (a.kind === "any" || b.kind === "any") return true;
  if (a.kind === "name" && b.kind === "name") return a.name === b.name;
  const within = (name: string, above: string) => name === above || name.endsWith(`.${above}`);
  if (a.kind === "below" && b.kind === "below") return within(a.name, b.name) || within(b.name, a.name);
  const [below, name] = a.kind === "below" ? [a, b] : [b, a];
  return name.name.endsWith(`.${below.name}`);
}

/** The header that is set for a secret, in lower case, with `{}` in its template. */
function headerOf({ header, basic }: Secret): { name: string; template: string } | undefined {
  if (basic) return { name: "authorization", template: "" };
  return header && { name: header.name.toLowerCase(), template: header.template };
}

function isReserved(name: string): boolean {
  return reserved.has(name) || name.startsWith("sec-websocket-") || name.startsWith("proxy-");
}

function rendered({ basic, header }: Secret, value: string): string {
  if (basic) return `Basic ${Buffer.from(`${basic.username}:${value}`, "latin1").toString("base64")}`;
  // As a function: `$&` in a value means itself.
  return (header?.template ?? "{}").replace("{}", () => value);
}

/** @throws WarrenError `invalid_request` as `checkSecrets` */
export function compileBindings(secrets: readonly LiveSecret[]): Bindings {
  checkSecrets(secrets);
  const all = secrets.map((secret) => ({ ...secret, targets: secret.hosts.map(parseTarget) }));
  type Bound = (typeof all)[number];

  const boundTo = (host: Host, port: number, isPlain: boolean) =>
    all.filter(({ targets }) =>
      targets.some(
        (target) =>
          target.isPlain === isPlain && matchesPort(target.rule, port) && matchesHost(target.rule, host),
      ),
    );
  const redactions = new Map<string, Redaction | undefined>();
  /** Kept: many requests go to the same few hosts. */
  const redactionOf = (bound: readonly Bound[]) => {
    const key = bound.map(({ name }) => name).join();
    if (!redactions.has(key)) {
      redactions.set(
        key,
        createRedaction(bound.flatMap(({ value }) => (value === undefined ? [] : [value]))),
      );
    }
    return redactions.get(key);
  };

  const admit = (to: Origin, url: string, fields: readonly string[]): Admitted | Refusal => {
    const host = parseHost(to.host);
    if (!host) return refuse(400, "the host can't be read");
    const bound = boundTo(host, to.port, !to.isSecure);
    const secured = all.find(({ targets }) =>
      targets.some((one) => !one.isPlain && matchesHost(one.rule, host)),
    );
    if (!to.isSecure && bound.length === 0 && secured) {
      return refuse(
        403,
        `${to.host} is bound to the secret ${secured.name}, and is spoken to over https only`,
      );
    }
    const lost = bound.find(({ value }) => value === undefined);
    if (lost) return refuse(502, `the value of the secret ${lost.name} is lost: it has to be set again`);
    const inUrl = all.find(({ placeholder }) => url.includes(placeholder));
    if (inUrl) {
      return refuse(403, `the placeholder of the secret ${inUrl.name} is in a URL, where no secret is put`);
    }
    const result: string[] = [];
    for (let i = 0; i < fields.length; i += 2) {
      const [name = "", text = ""] = [fields[i], fields[i + 1]];
      const shown = plainly(name, text);
      const used = all.filter(({ placeholder }) => shown.text.includes(placeholder));
      const stray = used.find((secret) => !bound.includes(secret));
      if (stray) {
        return refuse(
          403,
          `the placeholder of the secret ${stray.name} was sent to ${to.host}, which it is not bound to`,
        );
      }
      const replaced = used.reduce(
        (left, one) => left.replaceAll(one.placeholder, () => one.value ?? ""),
        shown.text,
      );
      result.push(name, used.length === 0 ? text : shown.back(replaced));
    }
    if (bound.length === 0) return { fields: result };
    const set = bound.flatMap((secret) => {
      const header = headerOf(secret);
      return header ? [[header.name, rendered(secret, secret.value ?? "")] as const] : [];
    });
    // An answer that can't be read can't be redacted.
    const dropped = new Set(["accept-encoding", "sec-websocket-extensions", ...set.map(([name]) => name)]);
    const kept = result.filter((_text, i) => !dropped.has((result[i - (i % 2)] ?? "").toLowerCase()));
    const redaction = redactionOf(bound);
    return {
      fields: [...kept, "accept-encoding", "identity", ...set.flat()],
      ...(redaction ? { redaction } : {}),
    };
  };

  return { admit, intercepts: (host, port) => boundTo(host, port, false).length > 0 };
}

/** A header's value as it is meant, and how it is written again: user and password of basic authentication are coded. */
function plainly(name: string, value: string): { text: string; back: (text: string) => string } {
  const coded = /^(?:proxy-)?authorization$/i.test(name) ? /^(basic +)([\w+/=-]+)\s*$/i.exec(value) : null;
  if (!coded) return { text: value, back: (text) => text };
  return {
    text: Buffer.from(coded[2] ?? "", "base64").toString("latin1"),
    back: (text) => `${coded[1]}${Buffer.from(text, "latin1").toString("base64")}`,
  };
}
