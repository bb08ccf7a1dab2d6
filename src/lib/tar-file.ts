const BLOCK = 512;

/** The header of an entry whose name is ASCII and shorter than 100 bytes. It is root's, and of 1970. */
export function tarHeader(entry: { name: string; type: "0" | "5"; mode: number; size: number }): Buffer {
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, bytes: number) =>
    header.write(`${value.toString(8).padStart(bytes - 1, "0")}\0`, at, "latin1");
  header.write(entry.name, 0, "latin1");
  octal(entry.mode, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(entry.size, 124, 12);
  octal(0, 136, 12);
  header.write("        ", 148, "latin1");
  header.write(entry.type, 156, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  octal(
    header.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  );
  return header;
}

/** A file with its header and padding. */
export function tarFile(name: string, mode: number, content: Uint8Array): Buffer {
  const padding = Buffer.alloc((BLOCK - (content.length % BLOCK)) % BLOCK);
  return Buffer.concat([tarHeader({ name, type: "0", mode, size: content.length }), content, padding]);
}
