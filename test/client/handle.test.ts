import { describe, expect, it } from "vitest";
import { CommandFailed, createNodeClient, Sandbox, WarrenError } from "../../src/client/node/index.ts";
import { serve } from "../server/serve.ts";

describe("the Sandbox handle", () => {
  it("runs a command and gives its output and exit code", async () => {
    await using served = await serve();
    await using box = await Sandbox.create({ image: "host" }, { url: served.url });
    const result = await box.exec(["sh", "-c", "echo out; echo err >&2; exit 3"]);
    expect(result).toMatchObject({ exitCode: 3, stdout: "out\n", stderr: "err\n", timedOut: false });
    expect(() => result.check()).toThrow(CommandFailed);
    await expect(box.exec(["false"], { check: true })).rejects.toThrow("false exited with 1");
    expect(new TextDecoder().decode(result.stdoutBytes)).toBe("out\n");
  });

  it("streams output and takes input", async () => {
    await using served = await serve();
    await using box = await Sandbox.connect("box", { url: `unix:${served.socketPath}` });
    await using command = box.stream(["cat"], { stdin: true });
    await command.write("grüße ");
    await command.write("🐇");
    await command.end();
    let text = "";
    for await (const piece of command) text += piece.text;
    expect(text).toBe("grüße 🐇");
    expect(await command.exit).toMatchObject({ exitCode: 0, timedOut: false });
  });

  it("tells the server's error, by iterating and by exit", async () => {
    await using served = await serve();
    const client = createNodeClient({ url: served.url });
    const box = await Sandbox.connect("box", { client });
    await expect(client.execStream("nobody", { cmd: ["true"] })).rejects.toMatchObject({
      code: "sandbox_not_found",
    });
    served.api.failNext(
      new WarrenError("sandbox_wrong_state", "sandbox is not running", { hint: "start it" }),
    );
    const command = box.stream(["true"]);
    await expect(command.exit).rejects.toMatchObject({ code: "sandbox_wrong_state", hint: "start it" });
    await expect(command[Symbol.asyncIterator]().next()).rejects.toMatchObject({
      code: "sandbox_wrong_state",
    });
  });

  it("publishes ports and gives links to them", async () => {
    const key = Buffer.alloc(32, 1);
    const dial = async () => {
      throw new WarrenError("port_unreachable", "nothing listens there");
    };
    await using served = await serve({ ports: { key, dial } });
    await using box = await Sandbox.connect("box", { url: served.url });
    expect(await box.publish(3000)).toMatchObject({
      sandbox_port: 3000,
      address: "127.0.0.1",
      state: "open",
    });
    expect(await box.publish({ sandbox_port: 53, host_port: 5353, address: "::1" })).toMatchObject({
      host_port: 5353,
      address: "::1",
    });
    await box.unpublish(53, "udp");
    expect(await box.ports()).toEqual([]);
    const link = await box.preview(3000, { expiresInS: 60 });
    expect(link.url).toBe(`http://3000-box.localhost:${served.port}/?warren_token=${link.token}`);
    expect(Date.parse(link.expires_at) - Date.now()).toBeLessThanOrEqual(60_000);
    await using local = await Sandbox.connect("box", { client: served.api });
    await expect(local.preview(3000)).rejects.toMatchObject({ code: "unsupported" });
  });

  it("moves files", async () => {
    await using served = await serve();
    await using box = await Sandbox.connect("box", { url: served.url });
    const bytes = new Uint8Array(300_000).map((_, index) => index % 251);
    expect(await box.files.write("/a b/ü;'\n.bin", bytes)).toBe(bytes.length);
    expect(Buffer.compare(await box.files.read("/a b/ü;'\n.bin"), bytes)).toBe(0);
    expect(await box.files.read("/a b/ü;'\n.bin", { offset: 10, length: 5 })).toEqual(bytes.slice(10, 15));
    await box.files.write("/text", "grüße");
    expect(await box.files.readText("/text")).toBe("grüße");
    expect(await box.files.exists("/text")).toBe(true);
    expect(await box.files.exists("/none")).toBe(false);
    await box.files.rename("/text", "/other");
    expect((await box.files.list("/")).map(({ path }) => path)).toContain("/other");
    const stream = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(new TextEncoder().encode("from a stream"));
        controller.close();
      },
    });
    await box.files.write("/streamed", stream);
    let text = "";
    for await (const chunk of box.files.readStream("/streamed")) text += new TextDecoder().decode(chunk);
    expect(text).toBe("from a stream");
    expect((await box.files.stat("/streamed")).mod_time).toBe("2024-05-06T07:08:09.123456789Z");
  });

  it("watches until it is told to stop", async () => {
    await using served = await serve();
    await using box = await Sandbox.connect("box", { url: served.url });
    const stop = new AbortController();
    const events = box.files.watch("/", { recursive: true, signal: stop.signal });
    const first = events.next();
    const writing = (async () => {
      for (let count = 0; !stop.signal.aborted; count++) {
        await box.files.write(`/new-${count}`, "x");
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    })();
    expect((await first).value).toMatchObject({ type: "create" });
    stop.abort();
    await writing;
    for await (const _ of events) {
      // Ends.
    }
  });

  it("leaves a found sandbox alone and removes a made one", async () => {
    await using served = await serve();
    const removed: string[] = [];
    const client = createNodeClient({ url: served.url });
    const spied = {
      ...client,
      remove: async (id: string) => {
        removed.push(id);
        await client.remove(id);
      },
    };
    {
      await using _found = await Sandbox.connect("box", { client: spied });
      await using _kept = await Sandbox.create({ keep: true }, { client: spied });
    }
    expect(removed).toEqual([]);
    {
      await using _made = await Sandbox.create({ memory: "512m", cpus: 0.5 }, { client: spied });
    }
    expect(removed).toEqual(["box"]);
    await expect(Sandbox.create({ memory: "lots" }, { client: spied })).rejects.toMatchObject({
      code: "invalid_request",
    });
  });

  it("kills the command when a call is given up", async () => {
    await using served = await serve();
    await using box = await Sandbox.connect("box", { url: served.url });
    const stop = new AbortController();
    const call = box.exec(["sleep", "60"], { signal: stop.signal });
    await expect.poll(() => served.api.running.size).toBe(1);
    stop.abort();
    await expect(call).rejects.toMatchObject({ code: "cancelled" });
    await expect.poll(() => served.api.running.size).toBe(0);
    {
      await using command = box.stream(["sleep", "60"]);
      await expect.poll(() => served.api.running.size).toBe(1);
      void command;
    }
    await expect.poll(() => served.api.running.size).toBe(0);
  });

  it("tells a caller's own failure to give the bytes as it is, and leaves nothing", async () => {
    await using served = await serve();
    await using box = await Sandbox.connect("box", { url: served.url });
    const failing = (async function* () {
      yield new Uint8Array(10);
      throw new RangeError("the disk is gone");
    })();
    await expect(box.files.write("/x", failing)).rejects.toThrow(RangeError);
    expect(await box.files.exists("/x")).toBe(false);
  });

  it("says so when no engine answers", async () => {
    const client = createNodeClient({ url: "unix:/nonexistent/engine.sock" });
    for (const call of [
      () => client.list(),
      () => client.execStream("box", { cmd: ["true"] }),
      () => client.files.write("box", "/x", new Uint8Array(1)),
    ]) {
      await expect(call()).rejects.toMatchObject({
        code: "engine_unavailable",
        hint: expect.stringContaining("warren serve"),
      });
    }
  });
});
