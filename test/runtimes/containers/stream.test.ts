import { type AddressInfo, createServer, type Server } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import type { ImageProgress } from "../../../src/contracts/images.ts";
import { type ApiClient, createApiClient } from "../../../src/runtimes/containers/api-client.ts";
import { build } from "../../../src/runtimes/containers/images/build.ts";
import { createOutputLines } from "../../../src/runtimes/containers/images/output-lines.ts";
import { pull } from "../../../src/runtimes/containers/images/pull.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { piecesOf } from "../../../src/testing/tar.ts";
import { contextOf } from "./support/contexts.ts";

let server: Server | undefined;
let client: ApiClient | undefined;
afterEach(() => {
  client?.close();
  server?.close();
});

const auth = { forImage: async () => ({}), forBuild: async () => ({}) };

/** An engine that answers a pull or a build with these bytes, and then ends the connection, or goes on for ever. */
async function engineSaying(bytes: string | Buffer, { endless = false } = {}): Promise<ApiClient> {
  server = createServer((socket) => {
    let asked = "";
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => {
      const before = asked;
      asked += chunk.toString("latin1");
      if (before.includes("\r\n\r\n") || !asked.includes("\r\n\r\n")) return;
      if (/^GET \/_ping/.test(asked)) {
        socket.end(
          "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK",
        );
      } else if (/^GET [^ ]*\/images\/json/.test(asked)) {
        socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]");
      } else {
        socket.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        socket.write(bytes);
        if (!endless) socket.end();
        else for (let i = 0; i < 64; i++) socket.write(Buffer.alloc(65_536, "x"));
      }
    });
  });
  await new Promise<void>((resolve) => server?.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  client = createApiClient({ kind: "tcp", host: "127.0.0.1", port });
  return client;
}

async function pulled(bytes: string | Buffer, options = {}): Promise<ImageProgress[]> {
  const told: ImageProgress[] = [];
  const from = { client: await engineSaying(bytes, options), isPodman: false, auth };
  await pull({ name: "docker.io/library/x:1", insecure: false }, from, {
    onProgress: (one) => told.push(one),
  });
  return told;
}

async function built(bytes: string | Buffer, options = {}): Promise<string[]> {
  const lines: string[] = [];
  const engine = {
    client: await engineSaying(bytes, options),
    isPodman: false,
    auth,
    labels: {},
    rlimits: {},
  };
  const onProgress = (one: ImageProgress) => {
    if ("line" in one) lines.push(one.line);
  };
  const context = piecesOf(contextOf("FROM scratch"));
  await build("docker.io/my/tools:1", { tag: "my/tools:1", context, onProgress }, engine);
  return lines;
}

it("a message that ends a call leaves the connection quietly, over a command, too", async () => {
  const answer = (head: string, body: string) =>
    `printf '%s' 'HTTP/1.1 200 OK\r\n${head}Content-Length: ${body.length}\r\n\r\n${body}'`;
  const script = `while read -r line; do case $line in
    GET*) ${answer("Api-Version: 1.41\r\n", "OK")};;
    POST*) ${answer("", '{"error":"denied"}\n')};;
  esac; done`;
  client = createApiClient({ kind: "command", argv: ["sh", "-c", script] });
  for (let i = 0; i < 10; i++) {
    const from = { client, isPodman: false, auth };
    await expectFailure(
      pull({ name: "docker.io/library/x:1", insecure: false }, from, {}),
      "image_pull_failed",
    );
  }
  // Whatever is said of a connection now has nobody to hear it.
  await new Promise((resolve) => setTimeout(resolve, 50));
});

describe("an engine's messages", () => {
  it("may come in any pieces, with whatever else they hold", async () => {
    const lines = [
      { status: "Pulling from x", id: "1", unknown: { a: [1] } },
      {
        status: "Downloading",
        id: "0123456789ab",
        progressDetail: { current: 5, total: 10 },
        progress: "[=>]",
      },
      { status: "Odd", id: "0123456789ab", progressDetail: { current: -1, total: 1.5 } },
      { status: "esc\u001b[2J\nnew", id: "not a layer" },
      { aux: { ID: "sha256:1" } },
      {},
    ];
    expect(await pulled(`${lines.map((line) => JSON.stringify(line)).join("\r\n")}\r\n\n`)).toEqual([
      { line: "1: Pulling from x" },
      { layer: "0123456789ab", status: "Downloading", current: 5, total: 10 },
      { layer: "0123456789ab", status: "Odd" },
      { line: "not a layer: esc[2Jnew" },
    ]);
  });

  it.each([
    ["garbage", "garbage\n"],
    ["half a message", '{"status":"Pulling"}\n{"status":"Pul'],
    ["what is no object", "[1]\n"],
    ["words of another kind", '{"status":{"a":1}}\n'],
    ["what is no text", Buffer.from([0xff, 0xfe, 0x0a])],
  ])("are refused when they are %s", async (_, bytes) => {
    await expectFailure(pulled(bytes), "runtime_failed");
    await expectFailure(built(bytes), "runtime_failed");
  });

  it("are refused when one has no end, without waiting for it", async () => {
    await expectFailure(pulled('{"status":"', { endless: true }), "runtime_failed");
    await expectFailure(built('{"stream":"', { endless: true }), "runtime_failed");
  });

  it("tell errors in the middle, and what comes after them is not heard", async () => {
    const error = { error: "manifest unknown", errorDetail: { message: "manifest unknown" } };
    const bytes = `{"status":"a"}\n${JSON.stringify(error)}\n{"status":"b"}\n`;
    await expectFailure(pulled(bytes), "image_not_found");
    const secret = `unauthorized: https://me:hunter2@host/v2/?token=abc\u001b[2J\n`;
    const denied = await expectFailure(pulled(`${JSON.stringify({ error: secret })}\n`), "image_pull_failed");
    expect(denied.message).not.toMatch(/hunter2|abc|\p{Cc}/u);
    const failed = `{"stream":"one\\ntwo"}\n{"error":"exit\\u001b[2J 3"}\n{"stream":"three"}\n`;
    const build = await expectFailure(built(failed), "image_build_failed");
    expect(build.message).toBe("the build failed: exit [2J 3\none\ntwo");
  });

  it("say what was built, else nothing was", async () => {
    const said = '{"stream":"a"}\n{"stream":"b\\n"}\n';
    const error = await expectFailure(built(said), "image_build_failed");
    expect(error.message).toMatch(/without a result\nab$/);
    expect(await built(`${said}{"aux":{"ID":"sha256:1"}}`)).toEqual(["ab"]);
  });
});

describe("lines of output", () => {
  const lines = (...pieces: string[]) => {
    const told: string[] = [];
    const output = createOutputLines((line) => told.push(line));
    for (const piece of pieces) output.push(piece);
    output.end();
    return told;
  };

  it("end where they end, wherever the pieces do", () => {
    expect(lines("a", "b\nc", "\n", "\n\n", "d")).toEqual(["ab", "c", "d"]);
    expect(lines("10%\r50%\r", "100%\r\nnext")).toEqual(["100%", "next"]);
  });

  it("hold nothing that steers a terminal", () => {
    expect(lines("a\u001b[31mred\u001b[0m\u0007\ttab\u009b1m\u202e!\n\u001b]0;title\u0007x")).toEqual([
      "ared\ttab!",
      "x",
    ]);
    // One that is cut by a piece's end is whole again by its line's.
    expect(lines("a\u001b[3", "1mred")).toEqual(["ared"]);
  });

  it("are of bounded length, without half a character", () => {
    const [long, ...others] = lines("x".repeat(4095), "😀".repeat(100_000), "\nnext");
    expect(long).toBe("x".repeat(4095));
    expect(others).toEqual(["next"]);
  });
});
