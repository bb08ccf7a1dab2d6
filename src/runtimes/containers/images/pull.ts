import type { ImageProgress } from "../../../contracts/images.ts";
import type { ProgressOptions } from "../../../contracts/runtime.ts";
import { lastWords } from "../../../lib/last-words.ts";
import { cancelled } from "../../../lib/signals.ts";
import { pullError } from "../../common/images/pull-error.ts";
import { type ApiClient, EngineRefusal, engineFailure } from "../api-client.ts";
import { type Message, readMessages } from "./messages.ts";
import { type RegistryName, splitName } from "./names.ts";
import { createOutputLines } from "./output-lines.ts";
import type { RegistryAuth } from "./registry-auth.ts";

export interface PullOptions {
  client: ApiClient;
  isPodman: boolean;
  auth: RegistryAuth;
}

/**
 * Fetches an image by its complete name.
 * @throws WarrenError `image_not_found`, `image_pull_failed`, `cancelled`, `runtime_failed`, `runtime_unavailable`
 */
export async function pull(
  { name, insecure }: RegistryName,
  { client, isPodman, auth }: PullOptions,
  { signal, onProgress = () => {} }: ProgressOptions,
): Promise<void> {
  const login = isPodman ? "podman login" : "docker login";
  const [repository, version] = splitName(name);
  const output = createOutputLines((line) => onProgress({ line }));
  try {
    const answer = await client.stream({
      method: "POST",
      // Docker speaks plain HTTP to registries on loopback; Podman has to be told to, which its own API alone can.
      ...(isPodman && insecure
        ? { path: "/libpod/images/pull", query: { reference: name, tlsVerify: false } }
        : { path: "/images/create", query: { fromImage: repository, tag: version } }),
      headers: await auth.forImage(name),
      timeoutMs: 0,
      ...(signal ? { signal } : {}),
    });
    for await (const message of readMessages(answer)) {
      if (message.error !== undefined) throw pullError(name, lastWords(Buffer.from(message.error)), login);
      if (message.stream !== undefined) output.push(message.stream);
      const progress = progressOf(message);
      if (progress) onProgress(progress);
    }
    output.end();
  } catch (error) {
    if (signal?.aborted) throw cancelled(signal);
    if (error instanceof EngineRefusal) throw pullError(name, lastWords(Buffer.from(error.message)), login);
    throw engineFailure(error, `${name} could not be pulled`);
  }
}

function progressOf({ id, status, progressDetail }: Message): ImageProgress | undefined {
  if (status === undefined) return undefined;
  const clean = (text: string) => text.replace(/\p{Cc}/gu, "").slice(0, 128);
  if (id === undefined || !/^[0-9a-f]{12}$/.test(id)) {
    return { line: clean(id === undefined ? status : `${id}: ${status}`) };
  }
  const { current, total } = progressDetail ?? {};
  return {
    layer: id,
    status: clean(status),
    ...(isCount(current) ? { current } : {}),
    ...(isCount(total) ? { total } : {}),
  };
}

function isCount(value: number | undefined): value is number {
  return value !== undefined && Number.isSafeInteger(value) && value >= 0;
}
