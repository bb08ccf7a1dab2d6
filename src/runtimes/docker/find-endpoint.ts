import { access, constants } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import { statOrUndefined } from "../../lib/files.ts";
import type { Endpoint, TlsMaterial } from "../containers/endpoint.ts";
import type { DockerSettings } from "../factory.ts";
import { currentContext, readContext, readTls } from "./contexts.ts";

const SYSTEM_SOCKET = "/var/run/docker.sock";
/** Seconds that ssh tries to connect. */
const SSH_TIMEOUT_S = 20;

/**
 * Where the docker command would find its daemon: DOCKER_HOST, else the context of DOCKER_CONTEXT or of its configuration file, else
 * the system's daemon, else a rootless one.
 * @throws WarrenError `runtime_unavailable` for what can't be used, with what to change as hint
 */
export async function findDockerEndpoint(settings: DockerSettings): Promise<Endpoint> {
  const { host, configDir } = settings;
  if (host !== undefined) {
    const tls = await tlsOf(settings);
    return parseDockerHost(host, { origin: "DOCKER_HOST", ...(tls ? { tls } : {}) });
  }
  const name = settings.context ?? (configDir === undefined ? undefined : await currentContext(configDir));
  if (name !== undefined && name !== "default") {
    const { host, tls } = await readContext(configDir ?? "/nonexistent", name);
    return parseDockerHost(host, { origin: `the Docker context ${name}`, ...(tls ? { tls } : {}) });
  }
  return { kind: "unix", path: await defaultSocket(settings.runtimeDir), hint: hintFor("DOCKER_HOST") };
}

/** Certificates are always checked: whatever asks for TLS gets all of it. */
async function tlsOf({ tlsVerify, certPath, configDir }: DockerSettings): Promise<TlsMaterial | undefined> {
  const dir = certPath ?? (tlsVerify === undefined ? undefined : configDir);
  if (dir !== undefined) return await readTls(dir);
  return tlsVerify === undefined ? undefined : {};
}

/** The first that may be used, else the first that is there. */
async function defaultSocket(runtimeDir: string | undefined): Promise<string> {
  const rootless = runtimeDir?.startsWith("/") ? [join(runtimeDir, "docker.sock")] : [];
  const there: string[] = [];
  for (const path of [SYSTEM_SOCKET, ...rootless]) {
    if (!(await statOrUndefined(path).catch(() => undefined))) continue;
    there.push(path);
    const usable = await access(path, constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    );
    if (usable) return path;
  }
  return there[0] ?? SYSTEM_SOCKET;
}

interface HostOptions {
  /** Whose setting it is, for those who must mend it. */
  origin: string;
  tls?: TlsMaterial;
}

/** @throws WarrenError `runtime_unavailable` for what is no address of a daemon */
export function parseDockerHost(text: string, { origin, tls }: HostOptions): Endpoint {
  const refuse = (why: string): never => {
    throw new WarrenError(
      "runtime_unavailable",
      `${origin} names no Docker daemon that can be used: ${why}`,
      {
        hint: "it looks like unix:///var/run/docker.sock, tcp://host:2376 or ssh://user@host",
      },
    );
  };
  const hint = hintFor(origin);
  const [, scheme = "", rest = ""] = /^([a-z0-9+]{1,16}):\/\/([\x21-\x7e]{0,4096})$/.exec(text) ?? [];
  switch (scheme) {
    case "unix":
      return rest.startsWith("/")
        ? { kind: "unix", path: rest, hint }
        : refuse("the socket's path is not absolute");
    case "tcp": {
      const { host, port, user } = authority(rest, refuse);
      if (user !== undefined) refuse("a tcp address has no user");
      return { kind: "tcp", host, port: port ?? (tls ? 2376 : 2375), hint, ...(tls ? { tls } : {}) };
    }
    case "ssh":
      return { kind: "command", argv: sshArgv(authority(rest, refuse), refuse), hint };
    default:
      return refuse(scheme === "" ? "it is no address" : `${scheme}:// is not supported`);
  }
}

interface Authority {
  user?: string;
  host: string;
  port?: number;
}

type Refuse = (why: string) => never;

function authority(rest: string, refuse: Refuse): Authority {
  const match = /^(?:([^@/]*)@)?(\[[0-9A-Fa-f:.]+\]|[^@/:[\]]+)(?::(\d{1,5}))?\/?$/.exec(rest);
  const [, user, bracketed = "", digits] = match ?? [];
  if (!match) return refuse("a host, and nothing after it, is expected");
  const port = digits === undefined ? undefined : Number(digits);
  if (port !== undefined && (port < 1 || port > 65_535)) return refuse("a port is 1 to 65535");
  return {
    host: bracketed.replace(/^\[(.*)\]$/, "$1"),
    ...(user === undefined ? {} : { user }),
    ...(port === undefined ? {} : { port }),
  };
}

function sshArgv({ user, host, port }: Authority, refuse: Refuse): [string, ...string[]] {
  // ssh would take it for an option; a name with a colon holds a password.
  if (!/^[A-Za-z0-9_.:][A-Za-z0-9_.:%-]*$/.test(host)) refuse("this is no name of a host");
  if (user !== undefined && !/^[A-Za-z0-9_.][A-Za-z0-9_.@\\-]*$/.test(user)) {
    refuse(user.includes(":") ? "a password doesn't belong there" : "this is no name of a user");
  }
  return [
    "ssh",
    // There is nobody to answer questions.
    ...["-o", `ConnectTimeout=${SSH_TIMEOUT_S}`, "-o", "BatchMode=yes", "-T"],
    ...(user === undefined ? [] : ["-l", user]),
    ...(port === undefined ? [] : ["-p", String(port)]),
    ...["--", host, "docker", "system", "dial-stdio"],
  ];
}

/** What whoever sees a failure can do, by the failed call's errno. */
function hintFor(origin: string): (cause: NodeJS.ErrnoException | undefined) => string {
  return (cause) => {
    const code = cause?.code ?? "";
    if (code === "EACCES" || code === "EPERM") {
      return 'usermod -aG docker "$USER", and log in again: whoever is in that group can become root on this machine. Rootless Docker needs no such group';
    }
    if (/^(ERR_TLS|ERR_SSL|CERT_|DEPTH_|SELF_SIGNED|UNABLE_TO|ERR_OSSL|EPROTO)/.test(code)) {
      return `DOCKER_CERT_PATH (or the context) needs the ca.pem that signed the daemon's certificate, and cert.pem and key.pem that the daemon accepts`;
    }
    return `systemctl start docker, or check ${origin}`;
  };
}
