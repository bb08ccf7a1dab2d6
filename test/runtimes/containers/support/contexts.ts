import { readdirSync, readFileSync } from "node:fs";

export interface Entry {
  name: string;
  content?: string | Buffer;
  mode?: number;
  /** POSIX's type flag. */
  type?: string;
  link?: string;
}

/** An uncompressed tar of just these entries, which no tool would write of some. */
export function tarOf(...entries: Entry[]): Buffer {
  return Buffer.concat([...entries.map(entryOf), Buffer.alloc(1024)]);
}

/** A build's context: a Dockerfile, and a static busybox at /bin for images `FROM scratch`. */
export function contextOf(dockerfile: string, ...more: Entry[]): Buffer {
  return tarOf(
    { name: "Dockerfile", content: dockerfile },
    { name: "busybox", content: readFileSync("/bin/busybox"), mode: 0o755 },
    ...more,
  );
}

/** Puts the busybox of the context in place, and has it run the commands that follow. */
export const scratch =
  'FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nENV PATH=/bin\nSHELL ["/bin/sh", "-c"]\n';

/** The bytes in pieces that end anywhere. */
export async function* piecesOf(bytes: Uint8Array, size = 50_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** Pids of what sleeps so long by a busybox. */
export function sleeping(seconds: number): string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8") === `busybox\0sleep\0${seconds}\0`;
    } catch {
      return false;
    }
  });
}

function entryOf({ name, content = "", mode = 0o644, type = "0", link = "" }: Entry): Buffer {
  const data = Buffer.from(content as string);
  const head = Buffer.alloc(512);
  head.write(name, 0);
  const octal = (value: number, at: number, length: number) =>
    head.write(`${value.toString(8).padStart(length - 1, "0")}\0`, at);
  octal(mode, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(data.length, 124, 12);
  octal(0, 136, 12);
  head.fill(" ", 148, 156);
  head.write(type, 156);
  head.write(link, 157);
  head.write("ustar\x0000", 257);
  octal(
    head.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  );
  return Buffer.concat([head, data, Buffer.alloc((512 - (data.length % 512)) % 512)]);
}
