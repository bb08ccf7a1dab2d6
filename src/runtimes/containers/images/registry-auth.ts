import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import type { Logger } from "../../../lib/log.ts";
import { run } from "../../../lib/run.ts";
import { splitName } from "./names.ts";

const MAX_FILE_BYTES = 1024 * 1024;
const HELPER_TIMEOUT_MS = 30_000;
/** Registries whose credentials a build is given: they all travel in one header. */
const MOST_REGISTRIES = 32;

const Text = z.string().max(65_536);
const AuthFile = z.object({
  auths: z
    .record(
      Text,
      z.object({
        /** `user:password` in base64. */
        auth: Text.optional(),
        username: Text.optional(),
        password: Text.optional(),
        identitytoken: Text.optional(),
      }),
    )
    .optional(),
  credHelpers: z.record(Text, Text).optional(),
  credsStore: Text.optional(),
});
type AuthFile = z.infer<typeof AuthFile>;

const HelperAnswer = z.object({ Username: Text, Secret: Text });

interface Credentials {
  username?: string;
  password?: string;
  identitytoken?: string;
}

/** The user's credentials of registries, as headers of an engine's API. They go nowhere else. */
export interface RegistryAuth {
  /** For a pull of this image, by its complete name. */
  forImage(name: string): Promise<Record<string, string>>;
  /** For a build, which may pull from any registry that there are credentials of. */
  forBuild(): Promise<Record<string, string>>;
}

/**
 * Reads what `podman login`, `skopeo login` and `docker login` have stored, each time anew, and asks the programs that keep
 * secrets for them. What can't be read counts as not there: most images need no credentials.
 */
export function createRegistryAuth(log: Logger, env: NodeJS.ProcessEnv = process.env): RegistryAuth {
  async function files(): Promise<AuthFile[]> {
    const read = await Promise.all(authPaths(env).map((path) => readAuthFile(path, log)));
    return read.filter((file) => file !== undefined);
  }

  /** Of the first file that has some for one of these keys, the most specific first. */
  async function find(keys: readonly string[], all: readonly AuthFile[]): Promise<Credentials | undefined> {
    for (const file of all) {
      for (const key of keys) {
        const helper = entryOf(file.credHelpers, key) ?? (key.includes("/") ? undefined : file.credsStore);
        const found = stored(file, key) ?? (helper === undefined ? undefined : await ask(helper, key));
        if (found) return found;
      }
    }
    return undefined;
  }

  async function ask(helper: string, server: string): Promise<Credentials | undefined> {
    // It is part of a program's name.
    if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(helper)) return undefined;
    const program = `docker-credential-${helper}`;
    try {
      const result = await run(program, ["get"], {
        env: helperEnv(env),
        stdin: Buffer.from(serverAddress(server)),
        timeoutMs: HELPER_TIMEOUT_MS,
      });
      // That it has none is a failure too; what it says of it may hold secrets.
      if (result.code !== 0) return undefined;
      const { Username, Secret } = HelperAnswer.parse(JSON.parse(result.stdout.toString("utf8")));
      return Username === "<token>" ? { identitytoken: Secret } : { username: Username, password: Secret };
    } catch {
      log.warn({ program }, "a program for credentials of registries did not do its work");
      return undefined;
    }
  }

  return {
    async forImage(name) {
      const keys = keysOf(name);
      const found = await find(keys, await files());
      if (!found) return {};
      return { "x-registry-auth": encode({ ...found, serveraddress: serverAddress(keys.at(-1) ?? "") }) };
    },
    async forBuild() {
      const all = await files();
      const registries = new Set(all.flatMap((file) => Object.keys({ ...file.auths, ...file.credHelpers })));
      const config: Record<string, Credentials> = {};
      for (const registry of [...registries].map(hostOf).slice(0, MOST_REGISTRIES)) {
        const found = await find([registry], all);
        if (found) config[serverAddress(registry)] = found;
      }
      return Object.keys(config).length === 0 ? {} : { "x-registry-config": encode(config) };
    },
  };
}

function authPaths(env: NodeJS.ProcessEnv): string[] {
  if (env.REGISTRY_AUTH_FILE) return [env.REGISTRY_AUTH_FILE];
  const home = env.HOME || homedir();
  const runtimeDir = env.XDG_RUNTIME_DIR || `/run/containers/${process.getuid?.() ?? 0}`;
  return [
    join(runtimeDir, env.XDG_RUNTIME_DIR ? "containers/auth.json" : "auth.json"),
    join(env.XDG_CONFIG_HOME || join(home, ".config"), "containers/auth.json"),
    join(env.DOCKER_CONFIG || join(home, ".docker"), "config.json"),
  ];
}

async function readAuthFile(path: string, log: Logger): Promise<AuthFile | undefined> {
  let why = "it can't be read";
  try {
    // Without waiting for a FIFO.
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const info = await file.stat();
    why = "it is no file, or too large";
    if (!info.isFile() || info.size > MAX_FILE_BYTES) throw new Error(why);
    const bytes = Buffer.alloc(info.size);
    const { bytesRead } = await file.read(bytes, 0, info.size, 0);
    why = "it is not what is expected";
    return AuthFile.parse(JSON.parse(bytes.subarray(0, bytesRead).toString("utf8")));
  } catch (error) {
    // Without the error's own words, which may quote the file.
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
      log.warn({ path, why }, "credentials of registries are left out");
    }
    return undefined;
  }
}

/** What credentials for an image may be stored under: its repository, what that lies in, its registry. */
function keysOf(name: string): string[] {
  const [repository] = splitName(name);
  const parts = repository.split("/");
  return parts.map((_, index) => parts.slice(0, parts.length - index).join("/"));
}

/** A key without what Docker writes around a registry's name. */
function hostOf(key: string): string {
  const host = key.replace(/^https?:\/\//, "").replace(/\/v[12]\/?$/, "");
  return host === "index.docker.io" || host === "registry-1.docker.io"
    ? "docker.io"
    : host.replace(/\/$/, "");
}

/** As Docker writes a registry's name. */
function serverAddress(registry: string): string {
  return registry === "docker.io" ? "https://index.docker.io/v1/" : registry;
}

function stored(file: AuthFile, key: string): Credentials | undefined {
  const entry = entryOf(file.auths, key);
  if (!entry) return undefined;
  if (entry.identitytoken) return { identitytoken: entry.identitytoken };
  if (entry.username !== undefined && entry.password !== undefined) {
    return { username: entry.username, password: entry.password };
  }
  const [, username, password] = /^([^:]+):(.+)$/s.exec(decode(entry.auth ?? "")) ?? [];
  return username === undefined || password === undefined ? undefined : { username, password };
}

function decode(base64: string): string {
  return Buffer.from(base64, "base64").toString("utf8").replace(/\0+$/, "");
}

/** Base 64 for URLs, with the padding that Go insists on. */
function encode(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString("base64").replaceAll("+", "-").replaceAll("/", "_");
}

/** The user's whole environment, since each helper has its own variables; but not our own settings. */
function helperEnv(env: NodeJS.ProcessEnv): Record<string, string> {
  const entries = Object.entries(env).filter(([name]) => !name.startsWith("WARREN_"));
  return Object.fromEntries(entries.filter((entry): entry is [string, string] => entry[1] !== undefined));
}

function entryOf<T>(record: Readonly<Record<string, T>> = {}, key: string): T | undefined {
  return Object.entries(record).find(([name]) => name === key || hostOf(name) === key)?.[1];
}
