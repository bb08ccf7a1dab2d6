import { Transform } from "node:stream";
import type { Redaction } from "../guard.ts";
import { createFinder, type Finder } from "./finder.ts";

const STAR = 0x2a;
/**
 * So many of a secret's first bytes pass when an answer pauses right after them: to hold back less than this would hold up
 * each message that happens to end like a secret begins.
 */
const MOST_SEEN = 3;
/** How long bytes that may begin a secret wait for what comes after them. */
const HOLD_MS = 1_000;

/** Of nothing, nothing. */
export function createRedaction(secrets: readonly string[]): Redaction | undefined {
  if (secrets.length === 0) return undefined;
  const texts = [...new Set(secrets.flatMap(writings))].sort((a, b) => b.length - a.length);
  const patterns = texts.map((text) => Buffer.from(text, "latin1"));
  const finder = createFinder(patterns);
  return {
    text: (text) => texts.reduce((left, one) => left.replaceAll(one, "*".repeat(one.length)), text),
    stream: () => createRedactor(patterns, finder),
  };
}

/** As servers may write it: as it is, in JSON, in a URL, and in base64 with anything before and behind it. */
function writings(secret: string): string[] {
  const bytes = Buffer.from(secret, "latin1");
  const coded = [0, 1, 2].map((offset) => {
    const all = Buffer.concat([Buffer.alloc(offset), bytes])
      .toString("base64")
      .replace(/=+$/, "");
    // Only characters that are made of the secret's own bits.
    return all.slice(Math.ceil((offset * 8) / 6), Math.floor(((offset + bytes.length) * 8) / 6));
  });
  return [
    secret,
    JSON.stringify(secret).slice(1, -1),
    encodeURIComponent(secret),
    ...coded,
    ...coded.map((text) => text.replaceAll("+", "-").replaceAll("/", "_")),
  ];
}

/** Puts stars over all occurrences, also where one comes in pieces. Length and all other bytes stay. */
function createRedactor(patterns: readonly Buffer[], finder: Finder): Transform {
  /** The last bytes that came, as far as they may begin one. */
  let tail = Buffer.alloc(0);
  /** The same with its stars: the end of one may begin the next. */
  let cleanTail = tail;
  /** So many of them have been passed on. */
  let passed = 0;
  let timer: NodeJS.Timeout | undefined;

  const redactor = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      clearTimeout(timer);
      const bytes = tail.length === 0 ? chunk : Buffer.concat([tail, chunk]);
      const clean = cover(bytes, finder, cleanTail);
      const kept = longestBeginning(bytes, patterns);
      const end = Math.max(passed, kept > MOST_SEEN ? bytes.length - kept : bytes.length);
      if (end > passed) redactor.push(clean.subarray(passed, end));
      tail = Buffer.from(bytes.subarray(bytes.length - kept));
      cleanTail = Buffer.from(clean.subarray(bytes.length - kept));
      passed = Math.max(0, end - (bytes.length - kept));
      if (passed < tail.length) timer = setTimeout(letGo, HOLD_MS).unref();
      done();
    },
    flush(done) {
      clearTimeout(timer);
      letGo();
      done();
    },
    destroy(error, done) {
      clearTimeout(timer);
      done(error);
    },
  });
  const letGo = () => {
    if (passed < tail.length) redactor.push(cleanTail.subarray(passed));
    passed = tail.length;
  };
  return redactor;
}

/** A copy with stars where it has to have some, else the bytes themselves; `begin` is its beginning that is covered already. */
function cover(bytes: Buffer, finder: Finder, begin: Buffer): Buffer {
  let clean: Buffer | undefined;
  if (begin.includes(STAR)) {
    clean = Buffer.from(bytes);
    begin.copy(clean);
  }
  // The next one may begin within the one before.
  for (let found = finder.next(bytes, 0); found; found = finder.next(bytes, found.at + 1)) {
    clean ??= Buffer.from(bytes);
    clean.fill(STAR, found.at, found.at + found.length);
  }
  return clean ?? bytes;
}

/** How many of the last bytes a pattern begins with, without being all of it. */
function longestBeginning(bytes: Buffer, patterns: readonly Buffer[]): number {
  let longest = 0;
  for (const pattern of patterns) {
    const first = pattern[0] as number;
    let at = bytes.indexOf(first, Math.max(0, bytes.length - pattern.length + 1));
    for (; at >= 0 && bytes.length - at > longest; at = bytes.indexOf(first, at + 1)) {
      if (bytes.subarray(at).equals(pattern.subarray(0, bytes.length - at))) longest = bytes.length - at;
    }
  }
  return longest;
}
