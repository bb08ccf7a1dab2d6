export interface RawEntry {
  name: string;
  content?: string | Buffer;
  mode?: number;
  /** POSIX's type flag. */
  type?: string;
  link?: string;
}

/** An uncompressed tar (ustar) of just these entries, which no tool would write of some. */
export function rawTar(...entries: RawEntry[]): Buffer {
  return Buffer.concat([...entries.map(entryOf), Buffer.alloc(1024)]);
}

function entryOf({ name, content = "", mode = 0o644, type = "0", link = "" }: RawEntry): Buffer {
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
