import { pack } from "tar-stream";

export interface TarFile {
  content: string | Uint8Array;
  mode?: number;
}

/** A tar of these files, by their paths. */
export async function tarOf(files: Readonly<Record<string, TarFile | string>>): Promise<Buffer> {
  const tar = pack();
  for (const [name, file] of Object.entries(files)) {
    const { content, mode = 0o644 }: TarFile = typeof file === "string" ? { content: file } : file;
    tar.entry({ name, mode }, Buffer.from(content as string));
  }
  tar.finalize();
  const chunks: Uint8Array[] = [];
  for await (const chunk of tar) chunks.push(chunk as Uint8Array);
  return Buffer.concat(chunks);
}

/** The bytes in pieces. */
export async function* piecesOf(bytes: Uint8Array, size = 64 * 1024): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}
