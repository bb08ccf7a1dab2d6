import type { IncomingMessage } from "node:http";
import { WarrenError } from "../contracts/errors.ts";
import { bodyBytes } from "./body.ts";
import { boundaryOf, multipartParts, type Part, readField } from "./multipart.ts";
import { checkPath } from "./query.ts";

/** What a form adds around its file: delimiters, headers, the path. */
const FORM_OVERHEAD_BYTES = 64 * 1024;

/** Longest percent-free path is 4095 bytes; the check that follows has the better sentence. */
const MAX_FIELD_BYTES = 8 * 1024;

/** How much of a file is kept while its path is awaited, for forms that name the path last, as den allows. */
const MAX_EARLY_BYTES = 1024 * 1024;

const MISSING_PATH = "path field is required";

/**
 * A form's file and where it goes. The bytes end only after the form's last boundary was seen, so a form that breaks off
 * or is malformed anywhere leaves the old file as it was.
 */
export async function receiveUpload(
  incoming: IncomingMessage,
  queryPath: string | undefined,
  maxBytes: number,
): Promise<{ path: string; bytes: AsyncIterable<Uint8Array> }> {
  const boundary = boundaryOf(incoming.headers["content-type"]);
  const parts = multipartParts(bodyBytes(incoming, maxBytes + FORM_OVERHEAD_BYTES), boundary);
  let path = queryPath;
  while (true) {
    const next = await parts.next();
    if (next.done) throw new WarrenError("invalid_request", "file field is required");
    if (next.value.name === "path") path = await pathOf(next.value, path);
    else if (next.value.name === "file") {
      const file = capped(next.value.body, maxBytes);
      if (path !== undefined) return { path: checkPath(path, MISSING_PATH), bytes: untilEnd(file, parts) };
      return await withLatePath(file, parts);
    }
  }
}

async function withLatePath(
  file: AsyncIterable<Uint8Array>,
  parts: AsyncIterator<Part>,
): Promise<{ path: string; bytes: AsyncIterable<Uint8Array> }> {
  const early: Uint8Array[] = [];
  let total = 0;
  for await (const chunk of file) {
    total += chunk.length;
    if (total > MAX_EARLY_BYTES) {
      throw new WarrenError("invalid_request", MISSING_PATH, {
        hint: "for files over 1 MiB put the path before the file, or into the query",
      });
    }
    early.push(chunk);
  }
  let path: string | undefined;
  for (let next = await parts.next(); !next.done; next = await parts.next()) {
    if (next.value.name === "path") path = await pathOf(next.value, path);
    else if (next.value.name === "file") throw oneFile();
  }
  return {
    path: checkPath(path, MISSING_PATH),
    bytes: (async function* () {
      yield* early;
    })(),
  };
}

async function* untilEnd(
  file: AsyncIterable<Uint8Array>,
  parts: AsyncIterator<Part>,
): AsyncGenerator<Uint8Array> {
  yield* file;
  for (let next = await parts.next(); !next.done; next = await parts.next()) {
    if (next.value.name === "file") throw oneFile();
  }
}

async function* capped(source: AsyncIterable<Uint8Array>, maxBytes: number): AsyncGenerator<Uint8Array> {
  let total = 0;
  for await (const chunk of source) {
    total += chunk.length;
    if (total > maxBytes) throw new WarrenError("too_large", `the file is larger than ${maxBytes} bytes`);
    yield chunk;
  }
}

/** The query wins, as it was there first. */
async function pathOf(part: Part, known: string | undefined): Promise<string> {
  const value = await readField(part, MAX_FIELD_BYTES);
  return known ?? value;
}

function oneFile(): WarrenError {
  return new WarrenError("invalid_request", "a form takes one file");
}
