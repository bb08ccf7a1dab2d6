import { Agent, request } from "node:http";
import { createNodeClient, Sandbox } from "../../src/client/node/index.ts";
import type { SandboxApi } from "../../src/contracts/api.ts";
import type { Box, Subject } from "../subject.ts";
import type { WarrenServer } from "./warren-server.ts";

/** Through the SDK, as a program would use it. */
export function warrenSdk(server: WarrenServer): Subject {
  let api: SandboxApi | undefined;
  return {
    ...common(server),
    name: `Warren SDK (${server.name})`,
    async create(): Promise<Box> {
      api ??= createNodeClient({ url: server.url() });
      const box = await Sandbox.create({ image: server.image(), timeoutS: -1 }, { client: api });
      const files = api.files;
      await box.exec(["/bin/echo", "ready"]);
      return {
        exec: async (argv) => void (await box.exec(argv)),
        write: async (path, bytes) => void (await box.files.write(path, bytes)),
        async read(path) {
          let bytes = 0;
          for await (const chunk of (await files.read(box.id, path)).body) bytes += chunk.byteLength;
          return bytes;
        },
        destroy: () => box.remove(),
      };
    },
  };
}

/** The REST API with nothing of ours in between: `node:http` and kept connections. */
export function warrenHttp(server: WarrenServer): Subject {
  const agent = new Agent({ keepAlive: true });
  const json = (body: unknown) => Buffer.from(JSON.stringify(body));

  /** The body; of a file only its length, in `bytes`, is kept. */
  function call(method: string, path: string, body?: Uint8Array, keep = true) {
    return new Promise<{ text: string; bytes: number }>((resolve, reject) => {
      const headers = body ? { "content-type": "application/json", "content-length": body.byteLength } : {};
      const sent = request(`${server.url()}/api/v1${path}`, { agent, method, headers }, (response) => {
        const chunks: Buffer[] = [];
        let bytes = 0;
        response.on("data", (chunk: Buffer) => {
          bytes += chunk.length;
          if (keep) chunks.push(chunk);
        });
        response.on("error", reject);
        response.on("end", () => {
          const text = Buffer.concat(chunks).toString("utf8");
          if ((response.statusCode ?? 500) < 300) resolve({ text, bytes });
          else reject(new Error(`${method} ${path}: ${response.statusCode} ${text}`));
        });
      });
      sent.on("error", reject);
      sent.end(body);
    });
  }

  return {
    ...common(server),
    name: `Warren HTTP (${server.name})`,
    async create(): Promise<Box> {
      const made = await call("POST", "/sandboxes", json({ image: server.image(), timeout: -1 }));
      const { id } = JSON.parse(made.text) as { id: string };
      const exec = async (cmd: string[]) => void (await call("POST", `/sandboxes/${id}/exec`, json({ cmd })));
      const file = (path: string) => `/sandboxes/${id}/files?path=${encodeURIComponent(path)}`;
      await exec(["/bin/echo", "ready"]);
      return {
        exec,
        write: async (path, bytes) => void (await call("PUT", file(path), bytes)),
        read: async (path) => (await call("GET", file(path), undefined, false)).bytes,
        destroy: async () => void (await call("DELETE", `/sandboxes/${id}`)),
      };
    },
  };
}

function common(server: WarrenServer) {
  return {
    isSlow: server.isSlow,
    unavailable: () => server.unavailable(),
    prepare: (rootfs: string, scratch: string) => server.start(rootfs, scratch),
    close: () => server.stop(),
  };
}
