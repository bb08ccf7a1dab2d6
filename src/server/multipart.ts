import { WarrenError } from "../contracts/errors.ts";

export interface Part {
  name: string;
  filename?: string;
  /** Must be read to its end before the next part is asked for. */
  body: AsyncIterable<Uint8Array>;
}

/** Far above what browsers and curl send, low enough that a hostile body costs little. */
const MAX_PARTS = 32;
const MAX_HEADER_BYTES = 16 * 1024;

/** The boundary of a multipart/form-data content type (RFC 2046: 1-70 characters). */
export function boundaryOf(contentType: string | undefined): string {
  const match =
    /^multipart\/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))\s*(?:;|$)/i.exec(
      contentType ?? "",
    );
  const boundary = match?.[1] ?? match?.[2];
  if (boundary === undefined) throw malformed("the content type has no multipart/form-data boundary");
  return boundary;
}

/**
 * The parts of a multipart/form-data body (RFC 7578), as a stream: at most one chunk of it and one delimiter are held.
 * @throws WarrenError `invalid_request` at the first byte that breaks the format, a missing end included.
 */
export async function* multipartParts(
  source: AsyncIterable<Uint8Array>,
  boundary: string,
): AsyncGenerator<Part> {
  const delimiter = Buffer.from(`\r\n--${boundary}`, "latin1");
  // The first delimiter has no line end before it when there is no preamble: giving it one makes all of them alike.
  const input = new Unread(source, Buffer.from("\r\n"));
  try {
    for await (const _ of upTo(input, delimiter)) {
      // A preamble is allowed and means nothing.
    }
    for (let count = 0; ; count++) {
      const ending = await input.take(2);
      if (ending === "--") return;
      if (ending !== "\r\n") throw malformed("a boundary is not followed by a line end");
      if (count === MAX_PARTS) throw malformed(`there are more than ${MAX_PARTS} parts`);
      const headers = await readHeaders(input);
      const body = upTo(input, delimiter);
      yield { ...headers, body };
      for await (const _ of body) {
        // What the caller left over.
      }
    }
  } finally {
    await input.close();
  }
}

/** A text field, at most `maxBytes` long. */
export async function readField(part: Part, maxBytes: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let total = 0;
  for await (const chunk of part.body) {
    total += chunk.length;
    if (total > maxBytes) throw malformed(`the field ${JSON.stringify(part.name)} is too long`);
    chunks.push(chunk);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
  } catch {
    throw new WarrenError("invalid_path", `the field ${JSON.stringify(part.name)} is not UTF-8`);
  }
}

/** Bytes until the delimiter, which is swallowed. */
async function* upTo(input: Unread, delimiter: Buffer): AsyncGenerator<Uint8Array> {
  while (true) {
    const at = input.bytes.indexOf(delimiter);
    if (at >= 0) {
      const rest = input.skip(at);
      input.skip(delimiter.length);
      if (rest.length > 0) yield rest;
      return;
    }
    // The tail may be the start of a delimiter.
    const safe = input.bytes.length - delimiter.length + 1;
    if (safe > 0) yield input.skip(safe);
    await input.more();
  }
}

async function readHeaders(input: Unread): Promise<{ name: string; filename?: string }> {
  let end = input.bytes.indexOf("\r\n\r\n");
  while (end < 0) {
    if (input.bytes.length > MAX_HEADER_BYTES) throw malformed("a part's headers are too long");
    await input.more();
    end = input.bytes.indexOf("\r\n\r\n");
  }
  if (end > MAX_HEADER_BYTES) throw malformed("a part's headers are too long");
  const lines = input.skip(end).toString("utf8").split("\r\n");
  input.skip(4);
  const disposition = lines.find((line) => /^content-disposition\s*:/i.test(line)) ?? "";
  if (!/^content-disposition\s*:\s*form-data\s*(;|$)/i.test(disposition)) {
    throw malformed("a part is not form-data");
  }
  const name = parameter(disposition, "name");
  const filename = parameter(disposition, "filename");
  if (name === undefined) throw malformed("a part has no name");
  return filename === undefined ? { name } : { name, filename };
}

/** Browsers write `"` in a name as %22, curl as \". */
function parameter(header: string, name: string): string | undefined {
  const match = new RegExp(`;\\s*${name}=(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s;"]+))`, "i").exec(header);
  return match?.[1]?.replace(/\\(["\\])/g, "$1") ?? match?.[2];
}

/** The unread part of what has arrived. */
class Unread {
  bytes: Buffer;
  readonly #source: AsyncIterator<Uint8Array>;

  constructor(source: AsyncIterable<Uint8Array>, start: Buffer) {
    this.#source = source[Symbol.asyncIterator]();
    this.bytes = start;
  }

  async more(): Promise<void> {
    const next = await this.#source.next();
    if (next.done) throw malformed("the body ends before its last boundary");
    const chunk = Buffer.from(next.value.buffer, next.value.byteOffset, next.value.byteLength);
    this.bytes = this.bytes.length === 0 ? chunk : Buffer.concat([this.bytes, chunk]);
  }

  skip(count: number): Buffer {
    const taken = this.bytes.subarray(0, count);
    this.bytes = this.bytes.subarray(count);
    return taken;
  }

  async take(count: number): Promise<string> {
    while (this.bytes.length < count) await this.more();
    return this.skip(count).toString("latin1");
  }

  async close(): Promise<void> {
    await this.#source.return?.();
  }
}

function malformed(what: string): WarrenError {
  return new WarrenError("invalid_request", `failed to parse multipart form: ${what}`);
}
