import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { WarrenError } from "../../contracts/errors.ts";
import { isGone } from "../../lib/files.ts";
import type { TlsMaterial } from "../containers/endpoint.ts";

/** Holds credentials of registries, too. */
const MAX_CONFIG_BYTES = 4 * 1024 * 1024;
const MAX_META_BYTES = 64 * 1024;
const MAX_PEM_BYTES = 1024 * 1024;

const ConfigFile = z.object({ currentContext: z.string().optional() });
const ContextMeta = z.object({
  Name: z.string(),
  Endpoints: z.object({
    docker: z.object({ Host: z.string(), SkipTLSVerify: z.boolean().optional() }),
  }),
});

/** What the docker command's configuration says; undefined: nothing, or there is none. @throws WarrenError */
export async function currentContext(configDir: string): Promise<string | undefined> {
  const path = join(configDir, "config.json");
  const text = await readBounded(path, MAX_CONFIG_BYTES);
  if (text === undefined) return undefined;
  return parse(path, text, ConfigFile).currentContext || undefined;
}

/** A context's endpoint as `docker context create` has stored it. @throws WarrenError `runtime_unavailable` */
export async function readContext(
  configDir: string,
  name: string,
): Promise<{ host: string; tls?: TlsMaterial }> {
  const missing = () =>
    new WarrenError("runtime_unavailable", `there is no Docker context ${JSON.stringify(name)}`, {
      hint: "docker context ls shows those that there are; DOCKER_CONTEXT and docker context use choose one",
    });
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.+-]{0,254}$/.test(name)) throw missing();
  const key = createHash("sha256").update(name).digest("hex");
  const path = join(configDir, "contexts", "meta", key, "meta.json");
  const text = await readBounded(path, MAX_META_BYTES);
  if (text === undefined) throw missing();
  const { Name, Endpoints } = parse(path, text, ContextMeta);
  if (Name !== name) throw unusable(path, "it is of another context");
  if (Endpoints.docker.SkipTLSVerify) {
    throw new WarrenError("runtime_unavailable", `the Docker context ${name} would trust any certificate`, {
      hint: `docker context update ${name} --docker host=…,ca=…,cert=…,key=…`,
    });
  }
  const tls = await readTls(join(configDir, "contexts", "tls", key, "docker"));
  const hasTls = Object.keys(tls).length > 0;
  return { host: Endpoints.docker.Host, ...(hasTls ? { tls } : {}) };
}

/** `ca.pem`, `cert.pem` and `key.pem` of a directory, those that are there. @throws WarrenError `runtime_unavailable` */
export async function readTls(dir: string): Promise<TlsMaterial> {
  const [ca, cert, key] = await Promise.all(
    ["ca.pem", "cert.pem", "key.pem"].map((name) => readBounded(join(dir, name), MAX_PEM_BYTES)),
  );
  if ((cert === undefined) !== (key === undefined)) {
    throw unusable(dir, "it holds one of cert.pem and key.pem without the other");
  }
  return { ...(ca ? { ca } : {}), ...(cert ? { cert } : {}), ...(key ? { key } : {}) };
}

/** Undefined when there is none. Waits for no FIFO. */
async function readBounded(path: string, most: number): Promise<Buffer | undefined> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch(
    (cause: NodeJS.ErrnoException) => {
      if (isGone(cause)) return undefined;
      throw unusable(path, cause.code ?? cause.message, cause);
    },
  );
  if (!file) return undefined;
  try {
    const found = await file.stat();
    if (!found.isFile()) throw unusable(path, "it is no file");
    if (found.size > most) throw unusable(path, `it has more than ${most} bytes`);
    return await file.readFile();
  } finally {
    await file.close();
  }
}

function parse<S extends z.ZodType>(path: string, text: Buffer, schema: S): z.output<S> {
  let json: unknown;
  try {
    json = JSON.parse(text.toString("utf8"));
  } catch {
    // Its words would quote the file, which holds credentials.
    throw unusable(path, "it is not JSON");
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw unusable(path, `its ${parsed.error.issues[0]?.path.join(".") || "content"} is not what is expected`);
}

function unusable(path: string, why: string, cause?: unknown): WarrenError {
  return new WarrenError("runtime_unavailable", `Docker's configuration ${path} can't be used: ${why}`, {
    hint: "set DOCKER_HOST, or mend that file",
    ...(cause === undefined ? {} : { cause }),
  });
}
