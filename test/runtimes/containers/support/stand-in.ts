import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Runtime } from "../../../../src/contracts/runtime.ts";
import { silentLogger } from "../../../../src/lib/log.ts";
import { createApiClient } from "../../../../src/runtimes/containers/api-client.ts";
import { containerCapabilities } from "../../../../src/runtimes/containers/capabilities.ts";
import { openContainerRuntime } from "../../../../src/runtimes/containers/runtime.ts";

export interface StandInImage {
  Id: string;
  RepoTags: string[];
  Architecture: string;
  Os: string;
  RootFS: { Layers: string[] };
  Config: { Labels: Record<string, string>; Env: string[] };
}

/** What an engine does instead of what it should. */
export type Fault = (response: ServerResponse, socket: Socket) => void;

/** Enough of a container engine to take snapshots of containers that don't run. It fails as it is told. */
export interface StandIn {
  runtime: Runtime;
  /** By name, and whether they are paused. */
  containers: Map<string, { isPaused: boolean }>;
  /** By name. */
  images: Map<string, StandInImage>;
  /** By method and path below the version, of all later requests. */
  faults: Map<string, Fault>;
  /** As the next engine does. */
  reopen(): Promise<Runtime>;
  close(): Promise<void>;
}

const digest = (letter: string) => `sha256:${letter.repeat(64)}`;

export async function openStandIn(): Promise<StandIn> {
  const dir = mkdtempSync(join(tmpdir(), "wstandin-"));
  const containers: StandIn["containers"] = new Map();
  const images: StandIn["images"] = new Map();
  const faults: StandIn["faults"] = new Map();
  const find = (path: string) => path.split("/").map(decodeURIComponent);

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<unknown> => {
    const url = new URL((request.url ?? "").replace(/^\/v[\d.]+/, ""), "http://x");
    const body = await bodyOf(request);
    const [, kind = "", name = "", action = ""] = find(url.pathname);
    const { method } = request;
    const key = `${method} /${kind}${action ? `/${action}` : ""}`;
    const fault = faults.get(kind === "commit" || name === "load" ? `${method} ${url.pathname}` : key);
    if (fault) return fault(response, request.socket);
    const query = url.searchParams;
    if (kind === "_ping") return "OK";
    if (kind === "version") return { Components: [{ Name: "Engine" }] };
    if (kind === "containers" && name === "json") return [];
    if (kind === "containers" && name === "create") {
      const image = JSON.parse(body.toString()).Image;
      if (image !== digest("a") && ![...images.values()].some(({ Id }) => Id === image)) return undefined;
      containers.set(query.get("name") ?? "", { isPaused: false });
      return { Id: "c" };
    }
    if (kind === "containers") {
      const container = containers.get(name);
      if (!container) return undefined;
      if (method === "DELETE") return containers.delete(name) && {};
      if (action === "unpause") container.isPaused = false;
      const { isPaused: Paused } = container;
      return { Id: "c", Image: digest("a"), State: { Status: Paused ? "paused" : "running", Paused } };
    }
    if (kind === "commit") {
      const RepoTags = [`${query.get("repo")}:${query.get("tag")}`];
      images.set(RepoTags[0] as string, {
        ...{ Id: digest("d"), RepoTags, Architecture: "amd64", Os: "linux" },
        RootFS: { Layers: [digest("a"), digest("b")] },
        Config: { Labels: {}, Env: ["TOKEN=hush"] },
      });
      return { Id: digest("d") };
    }
    if (name === "load") {
      const loaded = loadedImage(body);
      images.set(loaded.RepoTags[0] as string, loaded);
      return { stream: "Loaded" };
    }
    if (name === "json")
      return [...images.values()].map((image) => ({ ...image, Labels: image.Config.Labels }));
    const image = images.get(name) ?? [...images.values()].find(({ Id }) => Id === name);
    if (!image) return undefined;
    if (action === "history") return [{ Size: 77 }, { Size: 1000 }];
    if (method === "DELETE") for (const tag of image.RepoTags) images.delete(tag);
    return image;
  };

  const server = createServer((request, response) => {
    response.setHeader("api-version", "1.41");
    answer(request, response).then(
      (result) => {
        if (response.writableEnded || request.socket.destroyed) return;
        if (result === undefined && !response.headersSent) {
          if (faults.size > 0 && response.writableEnded) return;
          response.statusCode = 404;
          response.end('{"message":"no such thing"}');
        } else response.end(typeof result === "string" ? result : JSON.stringify(result));
      },
      (error) => response.destroy(error),
    );
  });
  const path = join(dir, "engine.sock");
  server.listen(path);
  await once(server, "listening");

  const opened: Runtime[] = [];
  const open = async () => {
    const client = createApiClient({ kind: "unix", path });
    const runtime = await openContainerRuntime({
      stateDir: join(dir, "state"),
      ownerId: "t1",
      log: silentLogger,
      flavor: {
        ...{ name: "docker", client, capabilities: containerCapabilities, seccomp: "", rlimits: {} },
        probe: () => Promise.reject(new Error("not asked")),
        close: async () => {},
      },
    });
    opened.push(runtime);
    return runtime;
  };
  const self: StandIn = {
    runtime: await open(),
    ...{ containers, images, faults },
    async reopen() {
      self.runtime = await open();
      return self.runtime;
    },
    async close() {
      for (const runtime of opened) await runtime.close();
      server.close();
      server.closeAllConnections();
      rmSync(dir, { recursive: true });
    },
  };
  return self;
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Of an archive as Docker takes it. */
function loadedImage(tar: Buffer): StandInImage {
  const files = new Map<string, string>();
  for (let at = 0; tar[at] !== 0; ) {
    const name = tar.toString("latin1", at, at + 100).replace(/\0.*/s, "");
    const size = Number.parseInt(tar.toString("latin1", at + 124, at + 135), 8);
    files.set(name, tar.toString("utf8", at + 512, at + 512 + size));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  const [{ Config: file, RepoTags }] = JSON.parse(files.get("manifest.json") ?? "");
  const { architecture, os, rootfs, config } = JSON.parse(files.get(file) ?? "");
  return {
    Id: digest("e"),
    RepoTags,
    Architecture: architecture,
    Os: os,
    RootFS: { Layers: rootfs.diff_ids },
    Config: { Env: [], ...config },
  };
}
