import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";
import { once } from "node:events";

/** Packets that were seen, each as its interface, the needle's number from 0 on, and bytes. */
export interface Seen {
  packets: { device: string; needle: number; bytes: Buffer }[];
  /** Of all that were looked at. */
  lost: number;
}

export interface Sniffer extends AsyncDisposable {
  /** Looks at all that was sent before, then ends. */
  finish(): Promise<Seen>;
}

/** Captures on all interfaces of this host's network namespace what holds one of the needles. */
export async function startSniffer(program: string, needles: readonly Buffer[]): Promise<Sniffer> {
  const end = randomBytes(16);
  const child = spawn(
    program,
    [end, ...needles].map((needle) => needle.toString("hex")),
    {
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  const closed = once(child, "close");
  await Promise.race([
    once(child.stdout, "data"),
    closed.then(() => Promise.reject(new Error("the sniffer ended"))),
  ]);
  return {
    async finish() {
      const socket = createSocket("udp4");
      // Nobody listens there.
      await new Promise((resolve) => socket.send(end, 9, "127.0.0.1", resolve));
      socket.close();
      await closed;
      const lines = text.split("\n");
      const lost = lines.find((line) => line.startsWith("lost "));
      if (lost === undefined) throw new Error(`the sniffer failed: ${text.slice(0, 500)}`);
      return {
        lost: Number(lost.slice(5)),
        packets: lines.flatMap((line) => {
          const [, device = "", needle, hex = ""] = /^(\S+) (\d+) ([0-9a-f]+)$/.exec(line) ?? [];
          return needle === undefined
            ? []
            : [{ device, needle: Number(needle) - 1, bytes: Buffer.from(hex, "hex") }];
        }),
      };
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await closed;
    },
  };
}
