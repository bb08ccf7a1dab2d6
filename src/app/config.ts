import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { WarrenError } from "../contracts/errors.ts";
import type { DockerSettings } from "../runtimes/factory.ts";

/**
 * Settings from the environment, unparsed; an empty variable counts as absent. This file is the only reader of
 * `process.env`. It loads no zod: a short command such as `warren exec` must start as fast as Node itself.
 * Settings of the engine and server are parsed in serve-config.ts.
 */
export interface Environment {
  /** WARREN_URL: the server that the CLI talks to. */
  url?: string;
  /** WARREN_API_KEY: the key that the CLI sends. */
  apiKey?: string;
  /** WARREN_CA_FILE: certificates that the CLI trusts, instead of the system's. */
  caFile?: string;
  /** WARREN_STATE_DIR */
  stateDir?: string;
  /** WARREN_API_KEYS: the keys that a server accepts. */
  apiKeys?: string;
  /** WARREN_TLS_CERT, WARREN_TLS_KEY: a server's files. */
  tlsCert?: string;
  tlsKey?: string;
  /** WARREN_HTTP2 */
  http2?: string;
  /** WARREN_PREVIEW_DOMAIN */
  previewDomain?: string;
  /** WARREN_RUNTIME */
  runtime?: string;
  /** WARREN_RUNTIMES */
  runtimes?: string;
  /** WARREN_OCI_PROGRAM */
  ociProgram?: string;
  /** WARREN_UPLINK */
  uplink?: string;
  /** WARREN_TRUST_FILE */
  trustFile?: string;
  /** WARREN_STRICT */
  strict?: string;
  /** WARREN_UNLIMITED */
  unlimited?: string;
  /** WARREN_MAX_SANDBOXES */
  maxSandboxes?: string;
  /** WARREN_DEFAULT_TIMEOUT */
  defaultTimeout?: string;
  /** WARREN_LOG_LEVEL */
  logLevel?: string;
  /** WARREN_DEBUG: errors come with their stack and cause. */
  debug: boolean;
  /** NO_COLOR, or a terminal that can't. */
  plain: boolean;
  /** TERM */
  term?: string;
  /** What the docker command goes by. */
  docker: DockerSettings;
  /** What package managers go by. */
  packageManagers: { home: string; variable: (name: string) => string | undefined };
  /** WARREN_ORB_VM, on macOS `warren`: the OrbStack machine that podman is in. */
  orbMachine?: string;
}

export function readEnvironment(env: NodeJS.ProcessEnv = process.env): Environment {
  const settings: Record<string, string | undefined> = {
    url: env.WARREN_URL,
    apiKey: env.WARREN_API_KEY,
    caFile: env.WARREN_CA_FILE,
    stateDir: env.WARREN_STATE_DIR,
    apiKeys: env.WARREN_API_KEYS,
    tlsCert: env.WARREN_TLS_CERT,
    tlsKey: env.WARREN_TLS_KEY,
    http2: env.WARREN_HTTP2,
    previewDomain: env.WARREN_PREVIEW_DOMAIN,
    runtime: env.WARREN_RUNTIME,
    runtimes: env.WARREN_RUNTIMES,
    ociProgram: env.WARREN_OCI_PROGRAM,
    uplink: env.WARREN_UPLINK,
    trustFile: env.WARREN_TRUST_FILE,
    strict: env.WARREN_STRICT,
    unlimited: env.WARREN_UNLIMITED,
    maxSandboxes: env.WARREN_MAX_SANDBOXES,
    defaultTimeout: env.WARREN_DEFAULT_TIMEOUT,
    logLevel: env.WARREN_LOG_LEVEL,
    orbMachine: env.WARREN_ORB_VM || (process.platform === "darwin" ? "warren" : undefined),
    term: env.TERM,
  };
  return {
    ...Object.fromEntries(
      Object.entries(settings).filter(([, value]) => value !== undefined && value !== ""),
    ),
    docker: dockerSettings(env),
    packageManagers: { home: homedir(), variable: (name) => hostVariable(name, env) },
    debug: isSet(env.WARREN_DEBUG) && env.WARREN_DEBUG !== "0",
    plain: isSet(env.NO_COLOR) || env.TERM === "dumb",
  };
}

function dockerSettings(env: NodeJS.ProcessEnv): DockerSettings {
  const settings: Record<string, string | undefined> = {
    host: env.DOCKER_HOST,
    context: env.DOCKER_CONTEXT,
    tlsVerify: env.DOCKER_TLS_VERIFY,
    // The engine may run in another directory.
    certPath: env.DOCKER_CERT_PATH && resolve(env.DOCKER_CERT_PATH),
    runtimeDir: env.XDG_RUNTIME_DIR,
  };
  return {
    ...Object.fromEntries(Object.entries(settings).filter(([, value]) => isSet(value))),
    configDir: resolve(env.DOCKER_CONFIG || join(homedir(), ".docker")),
  };
}

/** A variable of the caller's own environment, for `-e NAME` without a value. */
export function hostVariable(name: string, env: NodeJS.ProcessEnv = process.env): string | undefined {
  return env[name];
}

/** Takes variables out of our own environment: an engine that we start outlives us, and shall not have them. */
export function forgetVariables(names: readonly string[], env: NodeJS.ProcessEnv = process.env): void {
  for (const name of names) delete env[name];
}

/** The environment for an engine that outlives this command: ours, without what only this command needs. */
export function engineEnvironment(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const { WARREN_URL, WARREN_API_KEY, WARREN_API_KEYS, WARREN_STATE_DIR, ...rest } = env;
  return rest;
}

/** Takes the keys out of our own environment, so that no program that we start inherits them. */
export function forgetSecrets(env: NodeJS.ProcessEnv = process.env): void {
  delete env.WARREN_API_KEYS;
  delete env.WARREN_API_KEY;
}

/** Absolute path of the state directory: the flag, WARREN_STATE_DIR, or where the platform keeps such things. */
export function resolveStateDir(flag: string | undefined, environment: Environment): string {
  const chosen = flag ?? environment.stateDir;
  if (chosen !== undefined) {
    return resolve(chosen);
  }
  if (process.getuid?.() === 0) {
    return "/var/lib/warren";
  }
  const xdg = hostVariable("XDG_STATE_HOME");
  return join(xdg?.startsWith("/") ? xdg : join(homedir(), ".local", "state"), "warren");
}

/** The keys of a key file: one a line (commas work too); empty lines and lines that start with `#` don't count. */
export function readApiKeyFile(path: string): string[] {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw new WarrenError("invalid_request", `the API key file ${path} can't be read`, { cause });
  }
  const keys = splitList(text.replace(/^\s*#.*$/gm, ""));
  if (keys.length === 0) {
    throw new WarrenError("invalid_request", `the API key file ${path} holds no key`, {
      hint: `put one key on a line, for example: openssl rand -hex 24 > ${path}`,
    });
  }
  return keys;
}

/** Words separated by commas, spaces or line ends. */
export function splitList(text: string): string[] {
  return text.split(/[\s,]+/).filter((word) => word !== "");
}

function isSet(value: string | undefined): boolean {
  return value !== undefined && value !== "";
}
