import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { WarrenError } from "../../contracts/errors.ts";
import { lastWords } from "../../lib/last-words.ts";
import { type Endpoint, openConnection } from "../containers/endpoint.ts";

/** How long Podman's service may take to listen: it opens its storage first. */
const START_TIMEOUT_MS = 20_000;
/** Seconds without a request after which a service ends by itself, should its engine have been killed. */
const IDLE_S = 60;
const LAST_WORDS_MS = 100;
const MAX_COMPLAINT_BYTES = 16_384;

export interface PodmanService {
  endpoint: Endpoint;
  /** Ends it, when it is ours. */
  close(): Promise<void>;
}

/** A service of our own, that ends with us. */
export async function startService(dir: string): Promise<PodmanService> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const path = join(dir, "api.sock");
  const endpoint: Endpoint = { kind: "unix", path };
  await rm(path, { force: true });
  const child = spawn("podman", ["system", "service", `--time=${IDLE_S}`, `unix://${path}`], {
    stdio: ["ignore", "ignore", "pipe"],
    detached: true,
  });
  let complaint = Buffer.alloc(0);
  child.stderr.on("data", (chunk: Buffer) => {
    complaint = Buffer.concat([complaint, chunk]).subarray(-MAX_COMPLAINT_BYTES);
  });
  let ended: string | undefined;
  const gone = new Promise<void>((resolve) => {
    child.once("error", (error) => {
      ended = error.message;
      resolve();
    });
    child.once("exit", async () => {
      // Its last words may come after it, and what a rootless Podman leaves running for each user holds the pipe open.
      await Promise.race([once(child, "close"), sleep(LAST_WORDS_MS)]);
      child.stderr.destroy();
      ended ??= lastWords(complaint);
      resolve();
    });
  });
  child.unref();
  const close = async () => {
    if (ended === undefined) child.kill("SIGTERM");
    await gone;
    await rm(path, { force: true });
  };
  const deadline = performance.now() + START_TIMEOUT_MS;
  for (;;) {
    if (ended !== undefined) {
      throw new WarrenError("runtime_unavailable", `podman's service could not be started: ${ended}`, {
        hint: "podman info tells more; without podman: apt-get install podman",
      });
    }
    const connection = await openConnection(endpoint).catch(() => undefined);
    if (connection) {
      connection.destroy();
      return { endpoint, close };
    }
    if (performance.now() > deadline) {
      await close();
      throw new WarrenError("runtime_unavailable", "podman's service does not answer");
    }
    await sleep(10);
  }
}
