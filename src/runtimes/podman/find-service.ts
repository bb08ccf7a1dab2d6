import { stat } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import { type Endpoint, openConnection } from "../containers/endpoint.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** With one of these Podman has another storage, or other settings, than the service that the system runs. */
const ownSettings = ["CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINERS_CONF_OVERRIDE"] as const;

/**
 * The service that the podman command would talk to, when it can be reached; undefined: there is none, and one of our own is
 * to be started.
 * @throws WarrenError `runtime_unavailable`, `unsupported` for a CONTAINER_HOST that can't be used: it was asked for
 */
export async function findService(env: Environment, uid: number): Promise<Endpoint | undefined> {
  const { CONTAINER_HOST: wanted, XDG_RUNTIME_DIR: runtimeDir } = env;
  if (wanted) {
    const endpoint = parseHost(wanted);
    (await openConnection(endpoint)).destroy();
    return endpoint;
  }
  if (ownSettings.some((name) => env[name])) return undefined;
  const dir = uid === 0 ? "/run" : runtimeDir;
  if (!dir) return undefined;
  const path = join(dir, "podman/podman.sock");
  // Whoever else could have put it there would see, and answer, all that we ask.
  const owner = await stat(path).then(
    (found) => found.uid,
    () => undefined,
  );
  if (owner !== uid && owner !== 0) return undefined;
  const endpoint: Endpoint = { kind: "unix", path };
  try {
    (await openConnection(endpoint)).destroy();
    return endpoint;
  } catch {
    return undefined;
  }
}

function parseHost(text: string): Endpoint {
  const path = /^unix:\/\/(\/[^\0]+)$/.exec(text)?.[1];
  if (path !== undefined)
    return { kind: "unix", path, hint: () => "unset CONTAINER_HOST, or start what listens there" };
  throw new WarrenError("unsupported", "CONTAINER_HOST is no Unix socket of this machine", {
    hint: "unset it, or set it to unix:///run/podman/podman.sock",
  });
}
