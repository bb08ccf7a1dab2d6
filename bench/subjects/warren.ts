import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { createNodeClient, Sandbox } from "../../src/client/node/index.ts";
import type { SandboxApi } from "../../src/contracts/api.ts";
import type { Box, Subject } from "../subject.ts";
import { which } from "./process.ts";

const CLI = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

/** A `warren serve` of its own on a loopback port, over HTTP, through the SDK. Everything that Warren guards is on. */
export function warren(program: "crun" | "runc"): Subject & { api(): SandboxApi; enginePid(): number } {
  let server: ChildProcess | undefined;
  let api: SandboxApi | undefined;
  let image = "";
  const client = (): SandboxApi => {
    if (!api) throw new Error("prepare() comes first");
    return api;
  };
  return {
    name: `warren HTTP (${program})`,
    unavailable: async () => (which(program) ? undefined : `${program} is not installed`),
    async prepare(rootfs, directory) {
      image = rootfs;
      server = spawn(
        process.execPath,
        [
          CLI,
          "serve",
          "--port",
          "0",
          "--json",
          "--state-dir",
          join(directory, `w-${program}`),
          "--oci-program",
          program,
          "--max-sandboxes",
          "5000",
        ],
        { stdio: ["ignore", "pipe", "inherit"] },
      );
      const [line] = (await once(createInterface(server.stdout as NodeJS.ReadableStream), "line")) as [
        string,
      ];
      api = createNodeClient({ url: (JSON.parse(line) as { url: string }).url });
    },
    api: client,
    enginePid: () => server?.pid ?? 0,
    async create(): Promise<Box> {
      const box = await Sandbox.create({ image, timeoutS: -1 }, { client: client() });
      await box.exec(["/bin/echo", "ready"]);
      return {
        exec: async (argv) => void (await box.exec(argv)),
        write: async (path, bytes) => void (await box.files.write(path, bytes)),
        async read(path) {
          let bytes = 0;
          for await (const chunk of (await client().files.read(box.id, path)).body) bytes += chunk.byteLength;
          return bytes;
        },
        destroy: () => box.remove(),
      };
    },
    async close() {
      if (!server) return;
      for (const box of await client().list()) await client().remove(box.id);
      const exit = once(server, "exit");
      server.kill("SIGTERM");
      await exit;
    },
  };
}
