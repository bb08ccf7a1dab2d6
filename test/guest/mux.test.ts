import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, readFile } from "node:fs/promises";
import net from "node:net";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { describe, expect, it } from "vitest";
import { MUX_MAX_STREAMS, muxFrame, muxTypes } from "../../src/runtimes/containers/mux-frames.ts";
import {
  bytesOf,
  childrenOf,
  collect,
  marked,
  newMark,
  ownPidNamespace,
  readUntil,
  script,
  startGuest,
  until,
} from "./harness.ts";
import { startMux, startMuxProcess, type TestMux } from "./mux-harness.ts";

/** Processor time that a process has had, in ticks of 10 ms. */
async function ticksOf(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

const pidOf = (mux: TestMux): number => mux.processes.at(-1)?.pid as number;

describe("the mux", () => {
  it("carries whatever the socket does, many at once, over one process", async () => {
    await using guest = await startGuest();
    using mux = startMux(guest);
    const input = "line\n".repeat(100_000);
    await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        const session = await mux.client.spawn({
          ...script('cat; echo "$1" >&2; exit "$1"', String(i)),
          stdin: true,
        });
        await Promise.all([
          session.write(Buffer.from(input)).then(() => session.end()),
          collect(session).then((result) => {
            expect(result).toMatchObject({ stdout: input, stderr: `${i}\n`, exit_code: i });
          }),
        ]);
      }),
    );
    const path = join(guest.dir, "file");
    const bytes = Buffer.alloc(3_000_001, "abcdefg");
    await mux.client.writeFile(path, bytes);
    expect((await readFile(path)).equals(bytes)).toBe(true);
    expect((await bytesOf((await mux.client.readFile(path)).body)).equals(bytes)).toBe(true);
    expect(mux.processes).toHaveLength(1);
  });

  it("ends each direction by itself, and a stream alone", async () => {
    await using guest = await startGuest();
    using mux = startMux(guest);
    const server = net.createServer({ allowHalfOpen: true }, (socket) => {
      let heard = "";
      socket.on("data", (chunk) => {
        heard += chunk;
      });
      // Answers only once it has heard everything.
      socket.on("end", () => socket.end(`heard ${heard}`));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      const socket = await mux.client.dial((server.address() as net.AddressInfo).port);
      socket.end("all of it");
      expect((await bytesOf(socket)).toString()).toBe("heard all of it");
      const mark = newMark();
      const session = await mux.client.spawn({
        ...script("sleep 1000 & sleep 1000"),
        env: { MARK: mark, PATH: "/bin:/usr/bin" },
      });
      session.exit.catch(() => {});
      await until(async () => (await marked(mark)).length > 0);
      await session[Symbol.asyncDispose]();
      await until(async () => (await marked(mark)).length === 0);
      expect(await mux.client.hello()).toMatchObject({ protocol: 1 });
    } finally {
      server.close();
    }
  });

  it("does not let one who reads or takes nothing hold up the others, and keeps little for them", async () => {
    await using guest = await startGuest();
    using mux = startMux(guest);
    // Nobody reads what these say.
    const talkers = await Promise.all(
      Array.from({ length: 8 }, () => mux.client.spawn({ argv: ["/usr/bin/yes"], env: {} })),
    );
    // And this one takes nothing.
    const deaf = await mux.client.spawn({ ...script("sleep 1000"), stdin: true });
    let written = 0;
    let isDone = false;
    const writing = (async () => {
      for (; written < 64; written++) await deaf.write(Buffer.alloc(1 << 20));
      isDone = true;
    })().catch(() => {});
    expect(await collect(await mux.client.spawn(script("echo fine")))).toMatchObject({ stdout: "fine\n" });
    const path = join(guest.dir, "file");
    await mux.client.writeFile(path, Buffer.alloc(2 << 20, "x"));
    expect(await bytesOf((await mux.client.readFile(path)).body)).toHaveLength(2 << 20);
    expect(isDone).toBe(false);
    expect(written).toBeLessThan(4);
    const status = await readFile(`/proc/${pidOf(mux)}/status`, "utf8");
    expect(Number(/VmRSS:\s+(\d+)/.exec(status)?.[1])).toBeLessThan(8 * 1024);
    // It waits, and does not ask again and again.
    const before = await ticksOf(pidOf(mux));
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect((await ticksOf(pidOf(mux))) - before).toBeLessThan(10);
    for (const session of [...talkers, deaf]) {
      session.exit.catch(() => {});
      await session[Symbol.asyncDispose]();
    }
    await writing;
  });

  it("is started anew when it was lost, and when nobody had used it for a while", async () => {
    await using guest = await startGuest();
    using mux = startMux(guest, { idleMs: 50 });
    const waiting = mux.client.waitMain();
    await waiting.started;
    mux.processes[0]?.kill("SIGKILL");
    await expect(waiting.exit).rejects.toMatchObject({ code: "guest_failed" });
    await mux.client.hello();
    expect(mux.processes).toHaveLength(2);
    // With its stdin it ends.
    await until(() => mux.processes[1]?.exitCode === 0);
    await mux.client.hello();
    expect(mux.processes).toHaveLength(3);
  });

  it("says when it can't reach the guest", async () => {
    await using guest = await startGuest();
    using mux = startMux({ ...guest, dir: join(guest.dir, "elsewhere") });
    await expect(mux.connect()).rejects.toMatchObject({ code: "guest_failed" });
    await expect(mux.connect()).rejects.toMatchObject({ code: "guest_failed" });
    expect(mux.processes).toHaveLength(1);
  });

  it("takes nobody else's socket for the guest's", async () => {
    await using guest = await startGuest();
    await chmod(guest.dir, 0o777);
    const listen =
      'use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 5) or die; $| = 1; print "up\\n"; sleep 100';
    const impostor = async (uid: number, name: string) => {
      const child = spawn("/usr/bin/perl", ["-e", listen, join(guest.dir, name, ".sock")], {
        uid,
        gid: uid,
        stdio: ["ignore", "pipe", "inherit"],
      });
      await once(child.stdout, "data");
      return child;
    };
    for (const [uid, name] of [
      [1000, "theirs"],
      [0, "ours"],
    ] as const) {
      const { mkdir, chmod: change } = await import("node:fs/promises");
      await mkdir(join(guest.dir, name));
      await change(join(guest.dir, name), 0o777);
      const child = await impostor(uid, name);
      using mux = startMux({ ...guest, dir: join(guest.dir, name) });
      if (uid === 0) (await mux.connect()).destroy();
      else await expect(mux.connect()).rejects.toMatchObject({ code: "guest_failed" });
      child.kill("SIGKILL");
      await once(child, "exit");
    }
  });

  it("refuses one stream too many, and lives on", async () => {
    await using guest = await startGuest();
    using mux = startMux(guest);
    const streams: Duplex[] = [];
    // To a server inside, since so many handlers there can't be.
    const server = net.createServer((socket) => socket.resume()).listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as net.AddressInfo;
    const opener = async () => {
      for (let left = MUX_MAX_STREAMS / 64; left > 0; left--) streams.push(await mux.client.dial(port));
    };
    await Promise.all(Array.from({ length: 64 }, opener));
    await expect(mux.connect()).rejects.toMatchObject({ code: "guest_failed" });
    for (const stream of streams) stream.destroy();
    server.close();
    await until(() =>
      mux.client.hello().then(
        () => true,
        () => false,
      ),
    );
    expect(mux.processes).toHaveLength(1);
  });

  it.each<[string, Buffer]>([
    ["a frame of an unknown type", muxFrame(1, 99)],
    [
      "a stream that is opened twice",
      Buffer.concat([muxFrame(5, muxTypes.open), muxFrame(5, muxTypes.open)]),
    ],
    ["a stream that was never opened", muxFrame(1, muxTypes.eof)],
    ["data without a byte", Buffer.concat([muxFrame(1, muxTypes.open), muxFrame(1, muxTypes.data)])],
    [
      "too much data at once",
      Buffer.concat([muxFrame(1, muxTypes.open), muxFrame(1, muxTypes.data, 40_000)]),
    ],
    ["an end of its input", Buffer.alloc(0)],
  ])("ends on %s", async (name, bytes) => {
    await using guest = await startGuest();
    const child = startMuxProcess(join(guest.dir, ".sock"));
    if (bytes.length > 0) child.stdin?.write(bytes);
    else child.stdin?.end();
    expect((await once(child, "exit"))[0], name).toBe(bytes.length > 0 ? 1 : 0);
  });

  it("outlives a signal to everybody as long as it is in use, and brings the guest's last words", async () => {
    await using guest = await startGuest({
      wrapper: ownPidNamespace,
      args: ["--", "/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"],
    });
    const pid = (await childrenOf(guest.pid))[0] as number;
    // As an engine does it: a process from outside joins the namespaces.
    using mux = startMux(guest, { wrapper: ["nsenter", `--target=${pid}`, "--mount", "--pid"] });
    const waiting = mux.client.waitMain();
    await waiting.started;
    const session = await mux.client.spawn(script("trap '' TERM; kill -TERM -1; echo still; sleep 1000"));
    expect(await readUntil(session.output[Symbol.asyncIterator](), "still")).toContain("still");
    session.exit.catch(() => {});
    await session[Symbol.asyncDispose]();
    await waiting.exit.catch(() => {});
    expect(await waiting.exit).toMatchObject({ exit_code: 7 });
    // A grace that is not waited for: the mux is nobody who has to end first.
    const begun = performance.now();
    await mux.client.shutdown(60_000);
    expect(await guest.ended).toBe(7);
    expect(performance.now() - begun).toBeLessThan(50_000);
  });
});
