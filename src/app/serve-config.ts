import { resolve } from "node:path";
import { z } from "zod";
import { WarrenError } from "../contracts/errors.ts";
import { parseDuration } from "../lib/units.ts";
import type { DockerSettings } from "../runtimes/factory.ts";
import { type RuntimeName, runtimes } from "../runtimes/registry.ts";
import { isLoopbackAddress } from "../server/loopback.ts";
import type { PreviewDomain } from "../server/preview/links.ts";
import { type Environment, readApiKeyFile, resolveStateDir, splitList } from "./config.ts";
import type { TlsFiles } from "./tls.ts";

/** What `warren serve` was given on its command line, unparsed. */
export interface ServeFlags {
  host?: string;
  port?: string;
  stateDir?: string;
  apiKeyFile?: string;
  allowedOrigin?: string[];
  allowBinds?: boolean;
  allowHostNetwork?: boolean;
  publishAddress?: string[];
  previewDomain?: string;
  tlsCert?: string;
  tlsKey?: string;
  http2?: boolean;
  runtime?: string;
  runtimes?: string;
  ociProgram?: string;
  uplink?: string;
  trustFile?: string;
  strict?: boolean;
  unlimited?: boolean;
  maxSandboxes?: string;
  defaultTimeout?: string;
  logLevel?: string;
  onDemand?: boolean;
}

const runtimeNames = Object.keys(runtimes) as [RuntimeName, ...RuntimeName[]];

const RuntimeChoice = z.enum(runtimeNames, { error: `the runtime is one of ${runtimeNames.join(", ")}` });

const wholeNumber = (what: string) => z.coerce.number({ error: `${what} is a whole number` }).int();

const previewDomain = /^(?:(https?):\/\/)?((?:[a-z0-9-]{1,63}\.)*[a-z0-9-]{1,63})(?::(\d{1,5}))?\/?$/;

/** With a scheme, it is how browsers reach it; without, the server's own scheme and port are. */
function parsePreviewDomain(text: string): PreviewDomain {
  const [, scheme, domain = "", port] = previewDomain.exec(text) ?? [];
  return { domain, ...(scheme ? { scheme } : {}), ...(port ? { port: Number(port) } : {}) };
}

const ServeConfig = z.object({
  stateDir: z.string(),
  /** Absent: no TCP listener, only the engine's socket. */
  tcp: z
    .object({
      host: z.string().min(1),
      port: wholeNumber("a port").min(0, "a port is 0 to 65535").max(65_535, "a port is 0 to 65535"),
    })
    .optional(),
  /** Keys that clients over TCP must have. Empty: no authentication. */
  apiKeys: z.array(
    z.string().regex(/^[\x21-\x7e]{1,512}$/, "an API key is 1 to 512 printable ASCII characters"),
  ),
  /** Files of certificate and key; absent: plain HTTP. */
  tls: z.object({ cert: z.string(), key: z.string() }).optional(),
  http2: z.boolean(),
  allowedOrigins: z.array(z.url({ error: "an allowed origin looks like https://example.org" })),
  /** Clients over TCP may mount directories of this machine. */
  allowBinds: z.boolean(),
  /** Clients over TCP may have sandboxes with this machine's network. */
  allowHostNetwork: z.boolean(),
  /** Addresses beside the loopback ones on which clients over TCP may publish ports. */
  publishAddresses: z.array(
    z.union([z.ipv4(), z.ipv6()], { error: "a publish address is an IP address such as 0.0.0.0" }),
  ),
  /** All of whose names lead to this server. */
  previewDomain: z
    .string()
    .regex(previewDomain, "a preview domain looks like preview.example.org, or https://preview.example.org")
    .transform(parsePreviewDomain)
    .optional(),
  /** The one of sandboxes that name none. */
  runtime: RuntimeChoice,
  /** Those that sandboxes may name; the default one is among them. */
  runtimes: z.array(RuntimeChoice),
  ociProgram: z.enum(["crun", "runc"], { error: "the OCI program is crun or runc" }).optional(),
  uplink: z
    .enum(["slirp4netns", "pasta"], { error: "the uplink of open network is slirp4netns or pasta" })
    .optional(),
  /** Where the runtime docker finds its daemon. */
  docker: z.custom<DockerSettings>(),
  /** Where package managers have their configuration; absent: it is not looked at. */
  packageManagers: z.custom<Environment["packageManagers"]>().optional(),
  /** Where the runtime podman is, when not here. */
  orbMachine: z
    .string()
    .regex(/^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$/, "WARREN_ORB_VM is the name of an OrbStack machine")
    .optional(),
  /** Certificates of servers that secrets are given to, beside those that this host trusts. */
  trustFile: z.string().optional(),
  /** Refuse container runtimes whose version has published escapes. */
  strict: z.boolean(),
  /** No default limits: a sandbox has those that its request names. */
  unlimited: z.boolean(),
  maxSandboxes: wholeNumber("the most sandboxes").min(1, "at least one sandbox").optional(),
  /** Seconds; -1: never. */
  defaultTimeoutS: z.number().int().min(-1).max(315_360_000).optional(),
  logLevel: z.enum(["debug", "info", "warn", "error", "silent"], {
    error: "the log level is debug, info, warn, error or silent",
  }),
});
export type ServeConfig = z.infer<typeof ServeConfig>;

/**
 * Every setting of engine and server: flag, else environment, else default. Throws `invalid_request` with all that is
 * wrong. An address that others can reach needs API keys.
 */
export function parseServeConfig(flags: ServeFlags, environment: Environment): ServeConfig {
  const timeout = flags.defaultTimeout ?? environment.defaultTimeout;
  const trustFile = flags.trustFile ?? environment.trustFile;
  const runtime = flags.runtime ?? environment.runtime ?? "oci";
  const parsed = ServeConfig.safeParse({
    stateDir: resolveStateDir(flags.stateDir, environment),
    tcp: flags.onDemand ? undefined : { host: flags.host ?? "127.0.0.1", port: flags.port ?? "8080" },
    // On demand there is no listener that a key could guard.
    apiKeys: flags.onDemand ? [] : apiKeys(flags, environment),
    tls: flags.onDemand ? undefined : tlsFiles(flags, environment),
    http2: !flags.onDemand && (flags.http2 ?? isOn("WARREN_HTTP2", environment.http2)),
    allowedOrigins: flags.allowedOrigin ?? [],
    allowBinds: flags.allowBinds ?? false,
    allowHostNetwork: flags.allowHostNetwork ?? false,
    publishAddresses: flags.publishAddress ?? [],
    previewDomain: flags.onDemand ? undefined : (flags.previewDomain ?? environment.previewDomain),
    runtime,
    runtimes: usableRuntimes(flags.runtimes ?? environment.runtimes, runtime),
    ociProgram: flags.ociProgram ?? environment.ociProgram,
    uplink: flags.uplink ?? environment.uplink,
    docker: environment.docker,
    packageManagers: environment.packageManagers,
    orbMachine: environment.orbMachine,
    // The engine may run in another directory.
    trustFile: trustFile === undefined ? undefined : resolve(trustFile),
    strict: flags.strict ?? isOn("WARREN_STRICT", environment.strict),
    unlimited: flags.unlimited ?? isOn("WARREN_UNLIMITED", environment.unlimited),
    maxSandboxes: flags.maxSandboxes ?? environment.maxSandboxes,
    defaultTimeoutS: timeout === undefined ? undefined : wholeSeconds(timeout),
    logLevel: flags.logLevel ?? environment.logLevel ?? "info",
  });
  if (!parsed.success) {
    const wrong = new Set(parsed.error.issues.map((issue) => issue.message));
    throw new WarrenError("invalid_request", [...wrong].join("; "), {
      hint: "warren serve --help lists the settings",
    });
  }
  const config = parsed.data;
  if (config.tcp && !isLoopback(config.tcp.host) && config.apiKeys.length === 0) {
    throw new WarrenError("forbidden", `refusing to listen on ${config.tcp.host} without authentication`, {
      hint: "give --api-key-file or WARREN_API_KEYS, or listen on 127.0.0.1",
    });
  }
  if (config.http2 && !config.tls) {
    throw new WarrenError("invalid_request", "HTTP/2 is served with TLS only", {
      hint: "give --tls-cert and --tls-key",
    });
  }
  return config;
}

function tlsFiles(flags: ServeFlags, environment: Environment): TlsFiles | undefined {
  const cert = flags.tlsCert ?? environment.tlsCert;
  const key = flags.tlsKey ?? environment.tlsKey;
  if (cert === undefined && key === undefined) return undefined;
  if (cert !== undefined && key !== undefined) return { cert: resolve(cert), key: resolve(key) };
  throw new WarrenError("invalid_request", `a TLS ${cert ? "certificate" : "key"} comes alone`, {
    hint: "give --tls-cert and --tls-key, or WARREN_TLS_CERT and WARREN_TLS_KEY",
  });
}

/** Unless they are named: all that isolate, and the default one whatever it does. */
function usableRuntimes(named: string | undefined, fallback: string): string[] {
  const names = named === undefined ? runtimeNames.filter((name) => name !== "fake") : splitList(named);
  if (named !== undefined && !names.includes(fallback)) {
    throw new WarrenError(
      "invalid_request",
      `the default runtime ${fallback} is not among those that may be used`,
      {
        hint: `name it in --runtimes (or WARREN_RUNTIMES), or choose another default with --runtime`,
      },
    );
  }
  return [...new Set([...names, fallback])];
}

function isOn(name: string, setting: string | undefined): boolean {
  if (setting === undefined || setting === "0" || setting === "false") return false;
  if (setting === "1" || setting === "true") return true;
  throw new WarrenError("invalid_request", `${name} is 1 or 0`);
}

function apiKeys(flags: ServeFlags, environment: Environment): string[] {
  if (flags.apiKeyFile !== undefined) {
    return readApiKeyFile(flags.apiKeyFile);
  }
  if (environment.apiKeys === undefined) {
    return [];
  }
  const keys = splitList(environment.apiKeys);
  // Set but empty is a mistake in a script, and must not turn authentication off.
  if (keys.length === 0) {
    throw new WarrenError("invalid_request", "WARREN_API_KEYS holds no key", {
      hint: "unset it to serve without authentication",
    });
  }
  return keys;
}

function wholeSeconds(text: string): number {
  const duration = parseDuration(text);
  return duration === "never" ? -1 : Math.ceil(duration);
}

/** True for what only this machine reaches. A name other than localhost may resolve to anything. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[(.*)\]$/, "$1").toLowerCase();
  return bare === "localhost" || isLoopbackAddress(bare);
}
